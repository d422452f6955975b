import os
import signal
import time
from pathlib import Path

import pytest

from data_prep.core import ray_tasks
from data_prep.core.errors import ClusterError, ConfigurationError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_task_whose_worker_is_killed_is_done_again(tmp_path: Path) -> None:
    def die_once(marker: str) -> int:
        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    jobs = [ray_tasks.Job(f"job {i}", die_once, (str(tmp_path / str(i)),), 1) for i in range(2)]
    assert list(ray_tasks.run(jobs, "dying", "jobs")) == [7, 7]


def test_at_most_the_allowed_number_is_in_flight_and_every_job_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(folder: str, number: int) -> int:
        with (Path(folder) / str(number)).open("x"):
            return number

    monkeypatch.setattr(ray_tasks, "TASKS_PER_CPU", 1)
    seen = []
    for number in ray_tasks.run(
        [ray_tasks.Job("note", note, (str(tmp_path), i), 1) for i in range(12)], "notes", "jobs"
    ):
        seen.append(number)
        time.sleep(0.01)  # so that whatever was submitted could have run
        assert len(list(tmp_path.iterdir())) <= len(seen) + 2
    assert sorted(seen) == list(range(12))


def test_the_first_error_of_ours_ends_the_others_and_arrives_as_itself(tmp_path: Path) -> None:
    def fail(folder: str) -> None:
        while not (Path(folder) / "started").exists():
            time.sleep(0.01)
        raise ConfigurationError("the disk is full of cats; remove some")

    def work_on(folder: str) -> None:
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # Ray cancels by it; a suite run in the background ignores it
        try:
            (Path(folder) / "started").touch()
            while not (
                Path(folder) / "ended"
            ).exists():  # Ray may miss one that it was just starting
                time.sleep(0.01)
        finally:
            (Path(folder) / "ended").touch()

    jobs = [
        ray_tasks.Job(work.__name__, work, (str(tmp_path),), 1) for work in (fail, work_on, work_on)
    ]
    with pytest.raises(ConfigurationError) as error:
        list(ray_tasks.run(jobs, "work", "jobs"))
    assert (
        str(error.value) == "the disk is full of cats; remove some"
        and type(error.value) is ConfigurationError
    )
    while not (tmp_path / "ended").exists():  # or the suite's time-out
        time.sleep(0.01)


def test_an_error_that_is_not_ours_keeps_its_type_and_traceback() -> None:
    def work() -> None:
        raise KeyError("cat")

    with pytest.raises(KeyError, match=r"in work\n.*cat"):
        list(ray_tasks.run([ray_tasks.Job("work", work, (), 1)], "work", "jobs"))


def test_a_task_that_ray_gives_up_is_an_error_that_names_it_and_says_what_to_do() -> None:
    import ray

    dead = ray.remote(num_cpus=1, max_retries=0)(
        lambda: os.kill(os.getpid(), signal.SIGKILL)
    ).remote()
    with pytest.raises(
        ClusterError,
        match=r"Ray gave up 'tokenize a': WorkerCrashedError .*run the same command again",
    ):
        ray_tasks.outcome(dead, "tokenize a")
