"""Garbage is collected between steps, at fixed ones, and normally again afterwards."""

import gc

import pytest

from training.trainer import gc_pauses

WARM_UP_STEPS = gc_pauses.WARM_UP_STEPS  # conftest.py changes it for the runs of the tests


@pytest.fixture
def default_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc_pauses, "WARM_UP_STEPS", WARM_UP_STEPS)


@pytest.mark.slow
def test_garbage_is_collected_at_fixed_steps_after_the_warm_up(
    default_warm_up: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gc_pauses, "COLLECT_EVERY_STEPS", 4)
    collector_states: list[tuple[bool, bool]] = []
    collected_at: list[int] = []

    def record_collection(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            collected_at.append(len(collector_states))

    gc.callbacks.append(record_collection)
    try:
        for _ in gc_pauses.gc_between_steps(range(10)):
            collector_states.append((gc.isenabled(), gc.get_freeze_count() > 0))
    finally:
        gc.callbacks.remove(record_collection)
    assert collector_states == [(True, False)] * 2 + [(False, True)] * 8
    assert collected_at == [2, 4, 8]
    assert gc.isenabled() and gc.get_freeze_count() == 0


@pytest.mark.slow
def test_an_error_in_a_step_enables_the_collector_again(default_warm_up: None):
    with pytest.raises(ValueError, match="failed"):
        for n in gc_pauses.gc_between_steps(range(9)):
            if n == 3:
                raise ValueError("failed")
    gc.collect()
    assert gc.isenabled()
