"""The watchdog's arithmetic, and a gang of two of which one rank falls asleep."""

from collections.abc import Callable
from pathlib import Path

import multi_rank
import pytest
import rank_worker as gang_of

from training.config import RunConfig
from training.trainer import loop, watchdog
from training.trainer.watchdog import EXIT_STATUS, Watchdog


def lone(seconds: float, monkeypatch: pytest.MonkeyPatch) -> tuple[Watchdog, list[float]]:
    """A watchdog that looks at a clock of ours."""
    clock = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    return Watchdog("memory://run", rank=0, min_seconds=seconds), clock


def test_a_kind_of_work_may_take_ten_times_its_longest_and_never_less_than_asked(
    monkeypatch: pytest.MonkeyPatch,
):
    dog, clock = lone(5.0, monkeypatch)
    limits = []
    for kind, seconds in (
        ("step", 40.0),
        ("step", 0.1),
        ("step", 2.0),
        ("checkpoint", 9.0),
        ("step", 0.2),
        ("checkpoint", 1.0),
    ):
        dog.begin(kind)
        limits.append(dog.limit_seconds(kind))
        clock[0] += seconds
    dog.begin("step")
    assert limits == [
        30.0,
        30.0,
        5.0,
        30.0,
        20.0,
        30.0,
    ]  # the first step compiled for 40 s: that teaches nothing
    assert dog.limit_seconds("step") == 20.0


def test_without_seconds_no_thread_watches(monkeypatch: pytest.MonkeyPatch):
    dog, clock = lone(0.0, monkeypatch)
    with dog:
        dog.begin("step")
        clock[0] += 1e9
        assert not any(thread.name == "watchdog" for thread in watchdog.threading.enumerate())


@pytest.mark.slow
def test_a_rank_that_waits_for_one_asleep_says_where_and_ends_and_the_run_goes_on_when_started_again(
    planner: Callable[[Path], Callable[..., RunConfig]],
    tmp_path: Path,
    free_port: Callable[[], int],
    steps_done: list[int],
):
    run = planner(tmp_path)("hung", {"guard.watchdog_seconds": 2.0, "checkpoint.every_steps": 2})
    (waiting, waiting_said), (asleep, asleep_said) = gang(tmp_path, free_port(), "hung~4~1")
    assert EXIT_STATUS in (waiting, asleep) and 0 not in (
        waiting,
        asleep,
    )  # the first to end may take the other with it
    (report, *_) = (tmp_path / "runs" / "hung" / "hung").iterdir()
    text = report.read_text()
    assert "step has not ended after 2 s, the limit is 2 s" in text and "in watched" in text
    assert text in waiting_said + asleep_said
    loop.train(str(tmp_path), run)
    assert steps_done == [4, 5]


def gang(root: Path, port: int, run: str) -> list[tuple[int | None, str]]:
    """(exit status, what it said) of each of two ranks."""
    ended = multi_rank.at_once(
        gang_of.main,
        *((str(root), str(rank), "2", str(port), run) for rank in range(2)),
        seconds=120,
    )
    return [(rank.status, rank.out + rank.err) for rank in ended]
