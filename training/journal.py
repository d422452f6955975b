"""what was seen on the way: metrics.jsonl, TensorBoard, live gauges, the progress bar

One line of JSON per logged step, with the loss and gradient norm of the newest that counted (guards.py), and one per held-out
loss, in the order they were seen; a resumed run cuts the file at its checkpoint's step first, so a step is never in it twice.
TensorBoard's files are made from the same lines at the end: they cannot be cut, and live values are the gauges' work.

    {"step": 10, "loss": 5.9, "learning_rate": 0.001, "grad_norm": 1.2, "source_loss": {"clean": 5.8, "toxic": 6.7},
     "skipped_steps": 0, "rewinds": 0, "tokens_per_second": 41000.0, "mfu_ratio": 0.31, "data_wait_seconds": 0.0,
     "batch_toxic_share_ratio": 0.1, "toxic_share_ratio": 0.1, "n_tokens": 40960, "train_seconds": 1.1}
    {"step": 10, "held_out": "clean", "loss": 5.8, "n_tokens": 8128}
"""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from data_prep import storage, telemetry
from training.meter import Seen
from training.record import HeldOutLoss

PUBLISH_SECONDS = 30.0  # how far metrics.jsonl may lag behind while nothing is saved
GAUGES = {
    "loss": "hormesis_train_loss",
    "learning_rate": "hormesis_learning_rate",
    "grad_norm": "hormesis_grad_norm",
    "tokens_per_second": "hormesis_tokens_per_second",
    "mfu_ratio": "hormesis_mfu_ratio",
    "data_wait_seconds": "hormesis_data_wait_seconds",
    "batch_toxic_share_ratio": "hormesis_batch_toxic_share_ratio",
    "toxic_share_ratio": "hormesis_toxic_share_ratio",
    "skipped_steps": "hormesis_skipped_steps",
    "rewinds": "hormesis_rewinds",
    "step": "hormesis_train_step",
}


class Journal:
    """The journal of one run; only rank 0 keeps one."""

    def __init__(self, run_uri: str, run_id: str, *, first_step: int, n_steps: int) -> None:
        self._uri, self._run_uri, self._run_id = storage.join(run_uri, "metrics.jsonl"), run_uri, run_id
        past = storage.read(self._uri).decode().splitlines() if storage.exists(self._uri) else []
        self.lines: list[dict[str, Any]] = [line for line in map(json.loads, past) if line["step"] <= first_step]
        self._published_at = time.monotonic()
        self._bar = telemetry.progress(n_steps, run_id, "step", initial=first_step)
        telemetry.emit("hormesis_train_steps_planned", n_steps, run=run_id)

    def step(self, seen: Seen) -> None:
        """Note a logged step, unless none was accepted yet: there is no loss then."""
        line = seen.line
        self._bar.update(seen.n_steps)
        if not math.isfinite(line["loss"]):
            return
        self.lines.append(line)
        for name, gauge in GAUGES.items():
            telemetry.emit(gauge, line[name], run=self._run_id)
        for source, loss in line["source_loss"].items():
            telemetry.emit("hormesis_train_source_loss", loss, run=self._run_id, stream=source)
        self._bar.set_description(f"{self._run_id} loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s")
        if time.monotonic() - self._published_at > PUBLISH_SECONDS:
            self.publish()

    def held_out(self, step: int, found: tuple[HeldOutLoss, ...]) -> None:
        """Note the held-out losses after `step`."""
        for part in found:
            self.lines.append({"step": step, "held_out": part.stream, "loss": part.loss, "n_tokens": part.n_tokens})
            telemetry.emit("hormesis_held_out_loss", part.loss, run=self._run_id, stream=part.stream)

    def final_loss(self, n_steps: int) -> float:
        """The mean of the losses logged in the last tenth of the run: the very last batch may be a few rows."""
        losses = [line["loss"] for line in self.lines if "held_out" not in line and line["step"] > 0.9 * n_steps]
        return sum(losses) / len(losses)

    def publish(self) -> None:
        """Put all lines so far at runs/<run_id>/metrics.jsonl."""
        storage.write(self._uri, "".join(json.dumps(line, allow_nan=False) + "\n" for line in self.lines).encode())
        self._published_at = time.monotonic()

    def close(self) -> None:
        self._bar.close()

    def publish_tensorboard(self) -> None:
        """Make TensorBoard's files from the lines, at runs/<run_id>/tensorboard/; its clock is seconds of training."""
        from torch.utils.tensorboard import SummaryWriter

        with tempfile.TemporaryDirectory(prefix="hormesis-") as scratch:
            writer, seconds = SummaryWriter(scratch), 0.0
            for line in self.lines:
                seconds = line.get("train_seconds", seconds)
                if "held_out" in line:
                    writer.add_scalar(f"held_out_loss/{line['held_out']}", line["loss"], line["step"], walltime=seconds)
                    continue
                scalars = {name: line[name] for name in GAUGES.keys() - {"step"}}
                scalars |= {f"loss_{source}": loss for source, loss in line["source_loss"].items()}
                for name, value in scalars.items():
                    writer.add_scalar(f"train/{name}", value, line["step"], walltime=seconds)
            writer.close()
            (events,) = Path(scratch).iterdir()  # named by host and time; under one name, a second try replaces the first's
            storage.upload(events, storage.join(self._run_uri, "tensorboard", "events.out.tfevents.hormesis"))
