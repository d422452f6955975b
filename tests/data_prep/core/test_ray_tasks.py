import os
import signal
import time
from pathlib import Path

import pytest

from data_prep.core import ray_tasks
from data_prep.core.errors import ClusterError, ConfigurationError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_task_whose_worker_is_killed_runs_again(tmp_path: Path) -> None:
    def die_once(marker: str) -> int:
        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    tasks = [
        ray_tasks.RayTask(f"task {i}", die_once, (str(tmp_path / str(i)),), 1) for i in range(2)
    ]
    assert list(ray_tasks.run(tasks, "dying", "tasks")) == [7, 7]


def test_tasks_in_flight_are_bounded_and_each_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(folder: str, number: int) -> int:
        with (Path(folder) / str(number)).open("x"):
            return number

    monkeypatch.setattr(ray_tasks, "TASKS_PER_CPU", 1)
    seen = []
    for number in ray_tasks.run(
        [ray_tasks.RayTask("note", note, (str(tmp_path), i), 1) for i in range(12)],
        "notes",
        "tasks",
    ):
        seen.append(number)
        time.sleep(0.01)  # so that every submitted task could have run
        assert len(list(tmp_path.iterdir())) <= len(seen) + 2
    assert sorted(seen) == list(range(12))


def test_the_first_of_our_errors_cancels_the_others_and_is_raised(tmp_path: Path) -> None:
    def fail(folder: str) -> None:
        while not (Path(folder) / "started").exists():
            time.sleep(0.01)
        raise ConfigurationError("the disk is full of cats; remove some")

    def work_on(folder: str) -> None:
        # Ray cancels by SIGINT, which a test suite in the background ignores.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            (Path(folder) / "started").touch()
            # Ray may fail to cancel a task that is just starting.
            while not (Path(folder) / "ended").exists():
                time.sleep(0.01)
        finally:
            (Path(folder) / "ended").touch()

    tasks = [
        ray_tasks.RayTask(work.__name__, work, (str(tmp_path),), 1)
        for work in (fail, work_on, work_on)
    ]
    with pytest.raises(ConfigurationError) as error:
        list(ray_tasks.run(tasks, "work", "tasks"))
    assert (
        str(error.value) == "the disk is full of cats; remove some"
        and type(error.value) is ConfigurationError
    )
    while not (tmp_path / "ended").exists():  # or the suite's timeout
        time.sleep(0.01)


def test_any_other_error_keeps_its_type_and_traceback() -> None:
    def work() -> None:
        raise KeyError("cat")

    with pytest.raises(KeyError, match=r"in work\n.*cat"):
        list(ray_tasks.run([ray_tasks.RayTask("work", work, (), 1)], "work", "tasks"))


def test_a_lost_task_is_an_error_with_its_name_and_a_remedy() -> None:
    import ray

    dead = ray.remote(num_cpus=1, max_retries=0)(
        lambda: os.kill(os.getpid(), signal.SIGKILL)
    ).remote()
    with pytest.raises(
        ClusterError,
        match=r"Ray task 'tokenize a' failed: WorkerCrashedError .*run the same command again",
    ):
        ray_tasks.result(dead, "tokenize a")
