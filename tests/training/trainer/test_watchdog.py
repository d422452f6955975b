"""Time limits of the watchdog, and two ranks of which one falls asleep."""

from collections.abc import Callable
from pathlib import Path

import multi_rank
import pytest
import rank_worker

from training.config import RunConfig
from training.trainer import loop, watchdog
from training.trainer.watchdog import EXIT_STATUS, Watchdog


def watchdog_with_clock(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[Watchdog, list[float]]:
    """A watchdog, and its clock as a list of one number."""
    clock = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    return Watchdog("memory://run", rank=0, min_seconds=seconds), clock


def test_a_phase_may_take_ten_times_its_longest_recent_duration(monkeypatch: pytest.MonkeyPatch):
    dog, clock = watchdog_with_clock(5.0, monkeypatch)
    limits = []
    for kind, seconds in (
        ("step", 40.0),  # compiles, so its duration does not count
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
    assert limits == [30.0, 30.0, 5.0, 30.0, 20.0, 30.0]
    assert dog.limit_seconds("step") == 20.0


def test_with_0_seconds_no_thread_watches(monkeypatch: pytest.MonkeyPatch):
    dog, clock = watchdog_with_clock(0.0, monkeypatch)
    with dog:
        dog.begin("step")
        clock[0] += 1e9
        assert not any(thread.name == "watchdog" for thread in watchdog.threading.enumerate())


@pytest.mark.slow
def test_a_hung_rank_dumps_its_stacks_exits_and_the_run_resumes(
    planner: Callable[[Path], Callable[..., RunConfig]],
    tmp_path: Path,
    free_port: Callable[[], int],
    steps_done: list[int],
):
    run = planner(tmp_path)("hung", {"guard.watchdog_seconds": 2.0, "checkpoint.every_steps": 2})
    port = str(free_port())
    ranks = multi_rank.run_ranks(
        rank_worker.main,
        *((str(tmp_path), str(rank), "2", port, "hung~4~1") for rank in range(2)),
        seconds=120,
    )
    statuses = [rank.status for rank in ranks]
    assert EXIT_STATUS in statuses and 0 not in statuses  # the first exit may kill the other rank
    (report, *_) = (tmp_path / "runs" / "hung" / "hung").iterdir()
    text = report.read_text()
    assert "step has not ended after 2 s, the limit is 2 s" in text
    assert "in train_step_with_faults" in text
    assert text in "".join(rank.out + rank.err for rank in ranks)
    loop.train(str(tmp_path), run)
    assert steps_done == [4, 5]
