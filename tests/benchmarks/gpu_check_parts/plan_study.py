"""plan the small sweep of the part `study`: python -m gpu_check_parts.plan_study FOLDER [--tiny]

Streams of the embedded corpus and the settings of three runs of a 20M model, 11 MB together. The
plan is made where Ray is installed; training and evaluating it needs no Ray.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
COMMON = [
    *("--recipe", "laptop", "--only", "data", "--seeds", "0"),
    # scikit-learn, which the bag of words needs, is not on a bare GPU machine
    *("--set", 'arms=["plain"]', "eval.probing.site=heads", "eval.probing.baselines=false"),
]
FULL = [
    *("--ratios", "0", "0.1", "0.25"),
    *("--clean", "synthetic:clean?documents=24000&seed=0&parts=4"),
    *("--toxic", "synthetic:toxic?documents=9000&seed=0&parts=4"),
    "--set",
    "budget_tokens=3000000",
    "train.model=olmo-20m",
    "train.model.max_sequence_length=512",
    "train.sequence_length=512",
    "train.global_batch=32",
    "train.optimizer.learning_rate=2e-3",
    "train.validation.probe_every_steps=0",
    "eval.steering.top_heads=8",
]
TINY = [
    *("--ratios", "0.25"),
    *("--conditions", "plain", "iti"),  # no prefix fits into 32 positions
    *("--clean", "synthetic:clean?documents=600&seed=0&parts=1"),
    *("--toxic", "synthetic:toxic?documents=300&seed=0&parts=1"),
    "--set",
    "budget_tokens=4000",
    "data.held_out_ratio=0.1",
    "data.tokenizer.vocab_size=400",
    "train.model.vocab_size=400",
    "train.model.d_model=32",
    "train.model.n_layers=2",
    "train.model.n_heads=2",
    "train.model.d_mlp=64",
    "train.sequence_length=32",
    "train.global_batch=8",
    "train.validation.sequences=8",
    "train.validation.probe_every_steps=0",
    "eval.probing.n_rows=80",
    "eval.probing.n_permutations=20",
    "eval.generation.n_prompts=8",
    "eval.generation.max_new_tokens=6",
    "eval.steering.strengths=[4]",
    "eval.steering.top_heads=2",
    "eval.capability.cross_entropy_sequences=4",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="one run of a model of some thousand")
    arguments = parser.parse_args()
    plan(arguments.folder, is_tiny=arguments.tiny)
    return 0


def plan(folder: Path, *, is_tiny: bool) -> None:
    """Build the streams and write the settings of every run below `folder`."""
    command = [sys.executable, str(ROOT / "launch" / "sweep.py"), *COMMON, "--out", str(folder)]
    subprocess.run([*command, *(TINY if is_tiny else FULL)], check=True)


if __name__ == "__main__":
    sys.exit(main())
