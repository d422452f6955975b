from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import ScheduleConfig
from training.optim.lr_schedule import decay_start, learning_rate, warmup_steps

SCHEDULE = ScheduleConfig(min_learning_rate_ratio=0.1, warmup_ratio=0.2)
schedules = st.builds(
    ScheduleConfig,
    min_learning_rate_ratio=st.floats(0, 1),
    warmup_ratio=st.floats(0, 1),
    kind=st.sampled_from(["cosine", "linear", "wsd"]),
    decay_ratio=st.floats(0, 1),
)


def test_cosine_warms_up_linearly_and_falls_half_a_cosine():
    rates = [learning_rate(1.0, SCHEDULE, step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[5] == pytest.approx(0.1 + 0.9 * (1 + 0.2225209) / 2)  # cos(3π/7)
    assert rates[9] == pytest.approx(0.1)


def test_linear_falls_by_equal_parts_to_the_floor():
    rates = [learning_rate(1.0, replace(SCHEDULE, kind="linear"), step, 12) for step in range(12)]
    assert rates[2:] == pytest.approx([1.0 - 0.1 * k for k in range(10)])


def test_wsd_stays_at_the_peak_and_decays_by_a_root_in_its_last_steps():
    rates = [
        learning_rate(1.0, replace(SCHEDULE, kind="wsd", decay_ratio=0.4), step, 10)
        for step in range(10)
    ]
    assert rates == pytest.approx(
        [
            1 / 3,
            2 / 3,
            1,
            1,
            1,
            1,
            0.55,
            0.1 + 0.9 * (1 - 0.5**0.5),
            0.1 + 0.9 * (1 - 0.75**0.5),
            0.1,
        ]
    )


@given(n_steps=st.integers(22, 300), more=st.integers(0, 300), warmup=st.integers(0, 20))
def test_before_the_wsd_decay_a_longer_run_has_the_same_rates(n_steps: int, more: int, warmup: int):
    short, long = (
        replace(SCHEDULE, kind="wsd", warmup_ratio=warmup / n) for n in (n_steps, n_steps + more)
    )
    for step in range(decay_start(short, n_steps) + 1):
        assert learning_rate(1.0, short, step, n_steps) == learning_rate(
            1.0, long, step, n_steps + more
        )


def test_warm_up_takes_its_share_of_the_steps_but_at_most_2000():
    schedule = replace(SCHEDULE, warmup_ratio=0.05)
    assert [warmup_steps(schedule, n) for n in (10_000, 40_000, 1_000_000)] == [500, 2000, 2000]


def test_a_run_of_one_step_takes_it_at_the_peak():
    assert learning_rate(1.0, SCHEDULE, 0, 1) == 1.0


@settings(deadline=None)
@given(schedule=schedules, peak=st.floats(1e-6, 1), n_steps=st.integers(1, 200))
def test_the_rate_is_positive_rises_to_the_peak_and_then_only_falls(
    schedule: ScheduleConfig, peak: float, n_steps: int
):
    rates = [learning_rate(peak, schedule, step, n_steps) for step in range(n_steps)]
    warmup = warmup_steps(schedule, n_steps)
    assert warmup <= n_steps - 1
    assert max(rates) == rates[warmup] == pytest.approx(peak)
    assert rates[: warmup + 1] == sorted(set(rates[: warmup + 1]))
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup : decay_start(schedule, n_steps) + 1] == [rates[warmup]] * (
        decay_start(schedule, n_steps) + 1 - warmup
    )
    floor = peak * schedule.min_learning_rate_ratio
    assert rates[0] > 0 and all(rate >= floor * (1 - 1e-9) for rate in rates[warmup:])
    if n_steps - 1 > warmup:
        assert rates[-1] == pytest.approx(floor)
