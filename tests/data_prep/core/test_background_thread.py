import threading

import pytest

from data_prep.core.background_thread import in_background


def test_the_result_of_a_background_thread_is_in_its_future():
    assert in_background(lambda: threading.current_thread().name, "worker").result() == "worker"


def test_an_error_of_a_background_thread_is_in_its_future():
    def fail() -> None:
        raise KeyError("cat")

    with pytest.raises(KeyError, match="cat"):
        in_background(fail, "worker").result()


def test_a_background_thread_is_a_daemon():
    assert in_background(lambda: threading.current_thread().daemon, "worker").result()
