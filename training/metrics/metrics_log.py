"""what was seen on the way: metrics.jsonl, live gauges, the progress bar, and the sinks

One line of JSON per logged step, with the loss and gradient norm of the newest that counted
(step_guard.py), one per held-out loss and one per point of the emergence curve, in the order they
were seen; a resumed run cuts the file at its checkpoint's step first, so a step is never in it
twice.

    {"step": 10, "loss": 5.9, "learning_rate": 0.001, "grad_norm": 1.2, "source_loss": {"clean":
     5.8, "toxic": 6.7}, "block_grad_norm": {"embedding": 0.9, "0": 0.7, "1": 0.4}, "residual_rms":
     {"0": 1.1, "1": 1.3}, "attention_logit_max": {"0": 4.1, "1": 3.8}, "skipped_steps": 0,
     "rollbacks": 0, "tokens_per_second": 41000.0, "mfu_ratio": 0.31, "matmul_ratio": 0.39,
     "data_wait_seconds": 0.0, "memory_bytes": {"resident": 500000000, "peak": 600000000},
     "batch_toxic_share_ratio": 0.1, "toxic_share_ratio": 0.1, "n_tokens": 40960, "train_seconds":
     1.1}
    {"step": 10, "held_out": "clean", "loss": 5.8, "n_tokens": 8128} {"step": 10, "probe": "toxic",
    "auroc": 0.71, "accuracy": 0.65, "mean_auroc": 0.6, "head": [2, 1], "n_windows": 128}

The file in the store lags behind by PUBLISH_SECONDS, and is written beside training; a store that
does not answer is no reason to stop. It is written before each commit of a checkpoint, too, which
is what a resumed run's journal begins with.
"""

import json
import math
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.core import storage, telemetry
from data_prep.core.records import to_dict
from training.config import RunConfig
from training.metrics import sinks
from training.run_record import HeldOutLoss, ProbePoint

PUBLISH_SECONDS = 30.0
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
GROUPS = {  # a field of several numbers → its gauge, and the label that tells them apart
    "source_loss": ("hormesis_train_source_loss", "stream"),
    "block_grad_norm": ("hormesis_block_grad_norm", "block"),
    "residual_rms": ("hormesis_residual_rms", "layer"),
    "attention_logit_max": ("hormesis_attention_logit_max", "layer"),
    "memory_bytes": ("hormesis_memory_bytes", "kind"),
}


class LoggedStep(NamedTuple):
    """A logged step: steps since the one before, its line of metrics.jsonl, bad steps in a row."""

    n_steps: int
    line: dict[str, Any]
    n_bad: int


class MetricsLog:
    """The journal of one run; only rank 0 keeps one."""

    def __init__(self, run_uri: str, run: RunConfig, *, first_step: int) -> None:
        run_id, n_steps = run.run_id, run.mixture.n_steps
        self._uri, self._run_uri, self._run_id = (
            storage.join(run_uri, "metrics.jsonl"),
            run_uri,
            run_id,
        )
        past = storage.read(self._uri).decode().splitlines() if storage.exists(self._uri) else []
        self.lines: list[dict[str, Any]] = [
            line for line in map(json.loads, past) if line["step"] <= first_step
        ]
        self._texts = [
            _text(line) for line in self.lines
        ]  # of many lines it would take long again and again
        self._publisher, self._published = ThreadPoolExecutor(1, "journal"), Future[None]()
        self._published.set_result(None)
        self._published_at = time.monotonic()
        self._bar = telemetry.progress(n_steps, run_id, "step", initial=first_step)
        telemetry.emit("hormesis_train_steps_planned", n_steps, run=run_id)
        self._scratch = tempfile.TemporaryDirectory(prefix="hormesis-")
        self._sinks = {
            name: sinks.open_sink(name, run_id, self._folder(name))
            for name in run.train.metrics.sinks
        }
        self._seconds = 0.0
        for line in self.lines:
            self._sink(line)

    def step(self, seen: LoggedStep) -> None:
        """Note a logged step, unless none was accepted yet: there is no loss then."""
        line = seen.line
        self._bar.update(seen.n_steps)
        if not math.isfinite(line["loss"]):
            return
        self._note(line)
        for name, gauge in GAUGES.items():
            telemetry.emit(gauge, line[name], run=self._run_id)
        for name, (gauge, label) in GROUPS.items():
            for part, value in line.get(name, {}).items():
                telemetry.emit(gauge, value, **{"run": self._run_id, label: part})
        self._bar.set_description(
            f"{self._run_id} loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s"
        )
        if time.monotonic() - self._published_at > PUBLISH_SECONDS and self._published.done():
            if error := self._published.exception():
                telemetry.logger.warning(
                    "run %s: its journal was not published, and is tried again: %s",
                    self._run_id,
                    error,
                )
            self.publishing()

    def held_out(self, step: int, found: tuple[HeldOutLoss, ...]) -> None:
        """Note the held-out losses after `step`."""
        for part in found:
            self._note(
                {
                    "step": step,
                    "held_out": part.stream,
                    "loss": part.loss,
                    "n_tokens": part.n_tokens,
                }
            )
            telemetry.emit(
                "hormesis_held_out_loss", part.loss, run=self._run_id, stream=part.stream
            )

    def probe(self, step: int, found: ProbePoint) -> None:
        """Note a point of the emergence curve."""
        self._note({"step": step, "probe": "toxic", **to_dict(found)})
        telemetry.emit("hormesis_probe_auroc", found.auroc, run=self._run_id)

    def final_loss(self, n_steps: int) -> float:
        """The mean of the losses logged in the last tenth of the run: the very last batch may be a
        few rows.
        """
        losses = [
            line["loss"]
            for line in self.lines
            if "train_seconds" in line and line["step"] > 0.9 * n_steps
        ]
        return sum(losses) / len(losses)

    def publishing(self) -> Future[None]:
        """Put all lines so far at runs/<run_id>/metrics.jsonl, beside training."""
        self._published_at, text = time.monotonic(), "".join(self._texts)
        self._published = self._publisher.submit(self._upload, text)
        return self._published

    def close(self) -> None:
        """No more lines will come."""
        self._bar.close()
        for sink in self._sinks.values():
            sink.close()
        self._publisher.shutdown(wait=True)

    def finish(self) -> None:
        """Publish all there is; for a run that is done, after `close`."""
        self._upload("".join(self._texts), whole=True)
        self._scratch.cleanup()

    def _note(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self._texts.append(_text(line))
        self._sink(line)

    def _sink(self, line: dict[str, Any]) -> None:
        self._seconds = line.get("train_seconds", self._seconds)
        for sink in self._sinks.values():
            sink.write(line["step"], self._seconds, sinks.scalars(line))

    def _upload(self, text: str, *, whole: bool = False) -> None:
        storage.write(self._uri, text.encode())
        for name, sink in self._sinks.items():
            if whole or sink.live:
                sink.flush()
                for file in (
                    path
                    for path in self._folder(name).rglob("*")
                    if path.is_file() and not path.is_symlink()
                ):
                    uri = storage.join(
                        self._run_uri, name, _lasting_name(file.relative_to(self._folder(name)))
                    )
                    storage.write(uri, file.read_bytes())  # all there is now: it may be growing

    def _folder(self, sink: str) -> Path:
        folder = Path(self._scratch.name, sink)
        folder.mkdir(exist_ok=True)
        return folder


def _text(line: dict[str, Any]) -> str:
    """A line of the file. JSON has no word for what is not finite: null, as a blow-up's activations
    may be.
    """
    return json.dumps(_finite(line), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lasting_name(file: Path) -> str:
    """TensorBoard names its file by host and time; under one name, a second try replaces the
    first's.
    """
    return (
        "events.out.tfevents.hormesis"
        if file.name.startswith("events.out.tfevents")
        else file.as_posix()
    )
