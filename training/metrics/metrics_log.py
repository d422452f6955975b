"""metrics.jsonl of a run, with live gauges, the progress bar and the sinks

The log has one line of JSON per logged step, with the loss and gradient norm of the last accepted
step (step_guard.py), one per held-out loss and one per point of the emergence curve, in the order
in which they were measured. A resumed run first truncates the log to its checkpoint's step, so a
step appears only once.

    {"step": 10, "loss": 5.9, "learning_rate": 0.001, "grad_norm": 1.2,
     "source_loss": {"clean": 5.8, "toxic": 6.7},
     "block_grad_norm": {"embedding": 0.9, "0": 0.7, "1": 0.4},
     "residual_rms": {"0": 1.1, "1": 1.3}, "attention_logit_max": {"0": 4.1, "1": 3.8},
     "skipped_steps": 0, "rollbacks": 0, "tokens_per_second": 41000.0, "mfu_ratio": 0.31,
     "matmul_ratio": 0.39, "data_wait_seconds": 0.0,
     "memory_bytes": {"resident": 500000000, "peak": 600000000},
     "batch_toxic_share_ratio": 0.1, "toxic_share_ratio": 0.1, "n_tokens": 40960,
     "train_seconds": 1.1}
    {"step": 10, "held_out": "clean", "loss": 5.8, "n_tokens": 8128}
    {"step": 10, "probe": "toxic", "auroc": 0.71, "accuracy": 0.65, "mean_auroc": 0.6,
     "head": [2, 1], "n_windows": 128}

The log is published to the store in the background every PUBLISH_SECONDS; a store that does not
answer is no reason to stop training. It is also published before each checkpoint is committed, for
that is where a resumed run's log begins.
"""

import json
import math
import tempfile
import time
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.core import storage, telemetry
from data_prep.core.background_thread import in_background
from data_prep.core.records import to_dict
from training.config import MetricsConfig
from training.metrics import sinks
from training.run_record import HeldOutLoss, ProbePoint

PUBLISH_SECONDS = 30.0
CLOSE_SECONDS = 300.0  # for a publication under way; the S3 client gives up sooner
GAUGES = {
    "loss": "hormesis_train_loss",
    "learning_rate": "hormesis_learning_rate",
    "grad_norm": "hormesis_grad_norm",
    "tokens_per_second": "hormesis_tokens_per_second",
    "mfu_ratio": "hormesis_mfu_ratio",
    "matmul_ratio": "hormesis_matmul_ratio",
    "data_wait_seconds": "hormesis_data_wait_seconds",
    "batch_toxic_share_ratio": "hormesis_batch_toxic_share_ratio",
    "toxic_share_ratio": "hormesis_toxic_share_ratio",
    "skipped_steps": "hormesis_skipped_steps",
    "rollbacks": "hormesis_rollbacks",
    "step": "hormesis_train_step",
}
LABELED_GAUGES = {  # a field of several numbers → its gauge, and the label that tells them apart
    "source_loss": ("hormesis_train_source_loss", "stream"),
    "block_grad_norm": ("hormesis_block_grad_norm", "block"),
    "residual_rms": ("hormesis_residual_rms", "layer"),
    "attention_logit_max": ("hormesis_attention_logit_max", "layer"),
    "memory_bytes": ("hormesis_memory_bytes", "kind"),
}


class LoggedStep(NamedTuple):
    """A step's line of metrics.jsonl, and the counts that go with it.

    n_steps: optimizer steps since the last logged one. n_bad: bad steps in a row so far.
    """

    n_steps: int
    line: dict[str, Any]
    n_bad: int


class MetricsLog:
    """The metrics log of one run; only rank 0 has one."""

    def __init__(
        self, run_uri: str, run_id: str, config: MetricsConfig, *, n_steps: int, first_step: int
    ) -> None:
        self._run_uri, self._run_id = run_uri, run_id
        self._uri = storage.join(run_uri, "metrics.jsonl")
        earlier = storage.read(self._uri).decode().splitlines() if storage.exists(self._uri) else []
        self.lines: list[dict[str, Any]] = [
            line for line in map(json.loads, earlier) if line["step"] <= first_step
        ]
        # Encoded once: encoding a long log at every publication would take long.
        self._encoded = [_encode(line) for line in self.lines]
        self._published = Future[None]()
        self._published.set_result(None)
        self._published_at = time.monotonic()
        self._progress = telemetry.progress(n_steps, run_id, "step", initial=first_step)
        telemetry.emit("hormesis_train_steps_planned", n_steps, run=run_id)
        self._scratch = tempfile.TemporaryDirectory(prefix="hormesis-")
        self._sinks = {
            name: sinks.open_sink(name, run_id, self._sink_folder(name)) for name in config.sinks
        }
        self._train_seconds = 0.0
        for line in self.lines:
            self._write_to_sinks(line)

    def log_step(self, logged: LoggedStep) -> None:
        """Add a logged step, unless no step was accepted yet: there is no loss then."""
        line = logged.line
        self._progress.update(logged.n_steps)
        if not math.isfinite(line["loss"]):
            return
        self._add(line)
        for name, gauge in GAUGES.items():
            telemetry.emit(gauge, line[name], run=self._run_id)
        for name, (gauge, label) in LABELED_GAUGES.items():
            for part, value in line.get(name, {}).items():
                telemetry.emit(gauge, value, **{"run": self._run_id, label: part})
        self._progress.set_description(
            f"{self._run_id} loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s"
        )
        if time.monotonic() - self._published_at > PUBLISH_SECONDS and self._published.done():
            if error := self._published.exception():
                telemetry.logger.warning(
                    "run %s: the metrics log could not be published, retrying: %s",
                    self._run_id,
                    error,
                )
            self.publish_in_background()

    def log_held_out(self, step: int, losses: tuple[HeldOutLoss, ...]) -> None:
        """Add the held-out losses after `step`."""
        for held_out in losses:
            self._add(
                {
                    "step": step,
                    "held_out": held_out.stream,
                    "loss": held_out.loss,
                    "n_tokens": held_out.n_tokens,
                }
            )
            telemetry.emit(
                "hormesis_held_out_loss", held_out.loss, run=self._run_id, stream=held_out.stream
            )

    def log_probe(self, step: int, point: ProbePoint) -> None:
        """Add a point of the emergence curve."""
        self._add({"step": step, "probe": "toxic", **to_dict(point)})
        telemetry.emit("hormesis_probe_auroc", point.auroc, run=self._run_id)

    def final_loss(self, n_steps: int) -> float:
        """The mean of the losses logged in the last tenth of the run.

        The last batch alone may be a few rows.
        """
        losses = [
            line["loss"]
            for line in self.lines
            if "train_seconds" in line and line["step"] > 0.9 * n_steps
        ]
        return sum(losses) / len(losses)

    def publish_in_background(self) -> Future[None]:
        """Publish all lines so far as runs/<run_id>/metrics.jsonl while training continues."""
        self._published_at = time.monotonic()
        text = "".join(self._encoded)
        previous = self._published

        def publish() -> None:
            wait([previous])  # an older text must not replace this one
            self._publish(text)

        self._published = in_background(publish, "metrics-log")
        return self._published

    def close(self) -> None:
        """Close the progress bar and the sinks; no lines may follow."""
        self._progress.close()
        for sink in self._sinks.values():
            sink.close()
        if wait([self._published], CLOSE_SECONDS).not_done:
            telemetry.logger.warning(
                "run %s: the metrics log is still being published after %.0f s; not waiting for it",
                self._run_id,
                CLOSE_SECONDS,
            )

    def publish_final(self) -> None:
        """Publish the whole log and the files of all sinks, after `close`, for a finished run."""
        self._publish("".join(self._encoded), all_sinks=True)
        self._scratch.cleanup()

    def _add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self._encoded.append(_encode(line))
        self._write_to_sinks(line)

    def _write_to_sinks(self, line: dict[str, Any]) -> None:
        self._train_seconds = line.get("train_seconds", self._train_seconds)
        for sink in self._sinks.values():
            sink.write(line["step"], self._train_seconds, sinks.scalars(line))

    def _publish(self, text: str, *, all_sinks: bool = False) -> None:
        storage.write(self._uri, text.encode())
        for name, sink in self._sinks.items():
            if not (all_sinks or sink.live):
                continue
            sink.flush()
            folder = self._sink_folder(name)
            for file in folder.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    target = storage.join(self._run_uri, name, _stable_name(file, folder))
                    # the content of now: the file may be growing
                    storage.write(target, file.read_bytes())

    def _sink_folder(self, name: str) -> Path:
        folder = Path(self._scratch.name, name)
        folder.mkdir(exist_ok=True)
        return folder


def _encode(line: dict[str, Any]) -> str:
    """A line of the file. JSON has no NaN or infinity: null, as for activations that blow up."""
    return json.dumps(_finite(line), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _stable_name(file: Path, folder: Path) -> str:
    """The file's name in the store.

    TensorBoard names its file by host and time; under one fixed name a retry replaces the file of
    the first attempt.
    """
    name = file.relative_to(folder)
    if name.name.startswith("events.out.tfevents"):
        return "events.out.tfevents.hormesis"
    return name.as_posix()
