"""a real small sweep: each planned run is trained by pretrain.py and evaluated by evaluate_run.py

These are the commands that a user without Ray calls, on the streams of a planned sweep (--study,
plan_study.py).
"""

import math
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from data_prep.core.records import from_json, to_json
from eval.eval_report import EvalReport
from eval.stats.estimate_with_interval import Estimate
from gpu_check_parts import plan_study
from gpu_check_parts.recorder import Recorder
from launch import experiment
from launch.report.analysis import evaluation_view
from training import run_record
from training.config import RunConfig

ROOT = Path(__file__).resolve().parents[3]
EVALUATION_NEEDS = ("scipy", "pyarrow")  # too large to be carried (carry_gpu_check.py)
SECONDS = 25.0  # of one run: training and evaluation


def run(recorder: Recorder) -> None:
    folder = recorder.work / "study"
    if recorder.scale.study:
        shutil.copytree(recorder.scale.study, folder)
    elif find_spec("ray"):
        plan_study.plan(folder, is_tiny=recorder.is_tiny)
    else:
        raise FileNotFoundError(
            "no planned sweep, and no Ray to plan one; give --study FOLDER, made by "
            "`python -m gpu_check_parts.plan_study FOLDER` where Ray is installed"
        )
    sweep = experiment.load(str(folder))
    settings = folder / "eval.json"
    settings.write_text(to_json(sweep.eval))
    for planned in sweep.runs():
        if not recorder.has_time(SECONDS, planned.run_id):
            continue
        with recorder.item(planned.run_id):
            _train(recorder, folder, planned)
            if missing := [name for name in EVALUATION_NEEDS if not find_spec(name)]:
                note = f"not done: this image has no {', '.join(missing)}"
                recorder.text(f"ratio {planned.toxic_ratio:g}: evaluation", note)
            else:
                _evaluate(recorder, folder, planned, settings)


def _train(recorder: Recorder, folder: Path, planned: RunConfig) -> None:
    command = ["training/pretrain.py", "--out", str(folder), "--run", planned.run_id]
    command += ["--set", "train.metrics.sinks=[]"]  # a bare image has no dashboard
    _, seconds = _call(command)
    record = run_record.find(str(folder), planned.run_id)
    assert record, "pretrain.py ended without a record"
    held_out = ", ".join(f"{part.stream} {part.loss:.3f}" for part in record.held_out)
    name = f"ratio {planned.toxic_ratio:g}"
    recorder.number(
        f"{name}: training",
        seconds,
        "s",
        f"{planned.train.model.n_parameters:,} parameters, {planned.mixture.n_steps} steps, "
        f"{record.tokens_per_second:,.0f} tokens/s",
    )
    recorder.number(
        f"{name}: last training loss", record.final_train_loss, "nats", f"held out: {held_out}"
    )
    with_what = ", ".join(f"{k}: {v}" for k, v in record.computed_with.items())
    recorder.text(f"{name}: computed with", with_what)


def _evaluate(recorder: Recorder, folder: Path, planned: RunConfig, settings: Path) -> None:
    command = ["eval/evaluate_run.py", "--out", str(folder), "--run", planned.run_id]
    printed, seconds = _call([*command, "--config", str(settings)])
    report = from_json(EvalReport, printed.encode(), "evaluate_run.py")
    name = f"ratio {planned.toxic_ratio:g}"
    recorder.number(f"{name}: evaluation", seconds, "s", f"{report.seconds:.1f} s without imports")
    probe = report.steering_probes.probe_accuracy
    scored_by = f"scored by {report.scorer_ids[0]}"
    recorder.number(f"{name}: probe accuracy", _value(probe), "", scored_by)
    seen = evaluation_view.view(report, min(report.config.prompts))
    for result in seen.steered:
        losses = ", ".join(f"{k} {_value(v):.3f}" for k, v in result.cross_entropy.items())
        recorder.number(
            f"{name}: toxic continuations at α = {result.strength:g}",
            100 * _value(result.any_toxic),
            "%",
            f"cross-entropy: {losses} nats per token",
        )


def _value(estimate: Estimate) -> float:
    return math.nan if estimate.value is None else estimate.value


def _call(command: list[str]) -> tuple[str, float]:
    """What a command of ours prints, and its seconds; raises if it fails."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stderr, file=sys.stderr)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {last[0]}")
    return done.stdout, time.monotonic() - start
