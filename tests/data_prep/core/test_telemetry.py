import logging
import sys

import pytest

from data_prep.core import telemetry
from data_prep.core.telemetry import METRICS


@pytest.fixture
def own_logger(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The program's logger as it is before an entry module configures it."""
    logger = logging.Logger("hormesis")
    monkeypatch.setattr(telemetry, "logger", logger)
    return logger


@pytest.mark.parametrize("name", METRICS)
def test_the_name_of_a_metric_contains_its_unit(name: str):
    metric = METRICS[name]
    assert name.startswith("hormesis_")
    assert not name.endswith("_total")  # Ray appends it to counters
    assert name.endswith("_seconds") == (metric.unit == "s")
    assert name.endswith("_ratio") == (metric.unit == "ratio")
    known = {"run", "stream", "reason", "block", "layer", "kind"}
    assert set(metric.labels) <= known  # each value is a time series


def test_only_known_metrics_with_their_labels_are_emitted():
    with pytest.raises(KeyError, match="hormesis_los"):
        telemetry.emit("hormesis_los", 1.0, run="a")
    with pytest.raises(AssertionError, match="hormesis_train_loss"):
        telemetry.emit("hormesis_train_loss", 1.0)
    with pytest.raises(AssertionError, match="hormesis_train_loss"):
        telemetry.emit("hormesis_train_loss", 1.0, run="a", host="b")


def test_without_ray_nothing_is_emitted_and_ray_is_not_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    telemetry.emit("hormesis_train_loss", 1.0, run="a")
    assert "ray" not in sys.modules


def test_a_value_reaches_the_instrument_of_its_metric(monkeypatch: pytest.MonkeyPatch):
    """Ray's own endpoint is read in the integration tests; here, the calls of its instruments."""
    received: list[tuple] = []

    class Instrument:
        def __init__(self, name: str) -> None:
            self.name = name

        def set(self, value: float, tags: dict) -> None:
            received.append(("set", self.name, value, tags))

        def inc(self, value: float, tags: dict) -> None:
            received.append(("inc", self.name, value, tags))

    monkeypatch.setattr(telemetry, "_in_ray", lambda: True)
    monkeypatch.setattr(telemetry, "_instrument", Instrument)
    telemetry.emit("hormesis_train_loss", 0.0, run="a")
    telemetry.emit("hormesis_documents", 3, stream="toxic")
    telemetry.emit("hormesis_documents", 0, stream="toxic")  # Ray's counters refuse 0
    assert received == [
        ("set", "hormesis_train_loss", 0.0, {"run": "a"}),
        ("inc", "hormesis_documents", 3, {"stream": "toxic"}),
    ]


def test_log_lines_go_to_stderr_once_after_repeated_configuration(
    own_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
):
    telemetry.configure()
    telemetry.configure()
    own_logger.info("built %d shards", 3)
    own_logger.debug("too detailed")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("built 3 shards") == 1
    assert "too detailed" not in err


def test_a_log_line_does_not_break_a_progress_bar(
    own_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
):
    telemetry.configure()
    bar = telemetry.progress(10, "tokenizing", "documents", initial=4)
    bar.update(1)
    assert (bar.n, bar.total) == (5, 10)
    own_logger.info("a line of its own")
    bar.close()
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert [line.split(" ", 1)[1] for line in lines if "own" in line] == ["a line of its own"]


def test_a_table_in_a_file_is_160_columns_wide(capsys: pytest.CaptureFixture[str]):
    telemetry.console().print("x" * 150)
    assert capsys.readouterr().out == "x" * 150 + "\n"


def test_names_in_log_lines_cannot_control_the_terminal(capsys):
    telemetry.configure()
    telemetry.logger.warning("read \x1b]0;owned\x07 \u202egnp.jsonl\tend")
    assert capsys.readouterr().err.endswith("read \\x1b]0;owned\\x07 \\u202egnp.jsonl\tend\n")
    assert telemetry.printable("a\nb\udce9 é") == "a\\nb\\udce9 é"
