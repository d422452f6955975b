"""a sweep of two ratios, a 40k-parameter model and thirty steps, run as a user would"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

from data_prep.core import storage

ROOT = Path(__file__).resolve().parent.parent.parent
CORPORA = [
    "--clean",
    "synthetic:clean?documents=600&seed=0&parts=2#label=toxic",
    "--toxic",
    "synthetic:toxic?documents=300&seed=0&parts=2#label=toxic",
]
TINY = [
    *("--recipe", "smoke"),
    *CORPORA,
    *("--ratios", "0", "0.25"),
    *("--conditions", "plain", "iti"),  # a window of 32 tokens is too short for the prefix
    *(
        "--set",
        "data.held_out_ratio=0.1",
        "data.tokenizer.vocab_size=400",
        "train.model.vocab_size=400",
        "train.model.d_model=32",
    ),
    *(
        "--set",
        "train.model.n_layers=2",
        "train.model.n_heads=2",
        "train.model.d_mlp=64",
        "train.sequence_length=32",
    ),
    *(
        "--set",
        "train.global_batch=8",
        "budget_tokens=8000",
        "train.checkpoint.every_steps=10",
        "train.metrics.every_steps=1",
    ),
    *(
        "--set",
        "train.validation.sequences=8",
        "eval.probing.n_rows=80",
        "eval.generation.n_prompts=12",
        "eval.generation.max_new_tokens=8",
    ),
    *(
        "--set",
        "eval.probing.site=heads",  # a shift of heads can be baked
        "eval.steering.strengths=[4]",
        "eval.steering.top_heads=2",
        "eval.capability.cross_entropy_sequences=8",
    ),
]


PLANTED_SECRETS = {  # recognisable, and of no account
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDSECRET00",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+aws+key/0123456789",
    "AWS_SESSION_TOKEN": "planted-secret-session-token",
    "HF_TOKEN": "hf_plantedsecret0123456789abcdefghijk",
    "WANDB_API_KEY": "c0ffee5ec4e7c0ffee5ec4e7c0ffee5ec4e7c0ff",
    "OPENAI_API_KEY": "sk-planted-secret-0123456789",
}


class PlantedSweep(NamedTuple):
    """A finished sweep whose environment held PLANTED_SECRETS: its object root, the text that it
    printed, and the folder where Ray kept logs.
    """

    root: str
    printed: str
    ray_folder: str


def environment(**more: str) -> dict[str, str]:
    """The caller's environment with the venv's programs first and no cluster to attach to, unless
    `more` names one.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return (
        {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        | {"PATH": path}
        | more
    )


def sweep(
    out: str, *flags: str, timeout: float = 400, **more: str
) -> subprocess.CompletedProcess[str]:
    """`python launch/sweep.py --out OUT …`, to its end."""
    command = [sys.executable, "launch/sweep.py", "--out", out, *flags]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=timeout
    )


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL a process and everything it started, Ray's daemons included."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def losses(out: str, run_id: str) -> list[tuple[int, float]]:
    """(step, training loss) of every logged step of a run."""
    lines = storage.read(storage.join(out, "runs", run_id, "metrics.jsonl")).splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]
