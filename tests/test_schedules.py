"""The learning rate over a run: the same as transformers' schedules, within bounds, without unwanted jumps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from stages.lib.params.fit import Fit
from stages.lib.training.schedules import learning_rate_factor
from tests.build import section

STEPS, WARMUP = 120, 12
SCHEDULES = ("cosine", "linear", "constant", "wsd", "cosine_restarts")


def settings(schedule: str, **overrides: Any) -> Fit:
    usual = {"schedule": schedule, "warmup_fraction": 0.1, "decay_fraction": 0.25, "cycles": 4, "final_fraction": 0.0}
    return section(Fit, **(usual | overrides))


@pytest.mark.parametrize(
    ("own", "reference"),
    [
        (settings("cosine"), lambda o: get_cosine_schedule_with_warmup(o, WARMUP, STEPS)),
        (
            settings("cosine", final_fraction=0.2),
            lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, WARMUP, STEPS, min_lr_rate=0.2),
        ),
        (settings("linear"), lambda o: get_linear_schedule_with_warmup(o, WARMUP, STEPS)),
        (settings("constant"), lambda o: get_constant_schedule_with_warmup(o, WARMUP)),
        (settings("cosine", warmup_fraction=0.0), lambda o: get_cosine_schedule_with_warmup(o, 0, STEPS)),
        (
            settings("cosine_restarts"),
            lambda o: get_cosine_with_hard_restarts_schedule_with_warmup(o, WARMUP, STEPS, num_cycles=4),
        ),
        (
            settings("wsd"),
            lambda o: get_wsd_schedule(o, WARMUP, 30, num_training_steps=STEPS, decay_type="linear"),
        ),
    ],
)
def test_schedules_are_those_of_transformers(own: Fit, reference: Callable[..., Any]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, expected = reference(optimizer), []
    for _ in range(STEPS):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [learning_rate_factor(own, step / STEPS) for step in range(STEPS)] == pytest.approx(expected, abs=1e-12)


ANY = {
    "schedule": st.sampled_from(SCHEDULES),
    "warmup_fraction": st.floats(0, 0.99),
    "decay_fraction": st.floats(0, 0.99),
    "cycles": st.integers(1, 10),
    "final_fraction": st.floats(0, 0.99),
}
PROGRESS = st.floats(0, 1, exclude_max=True)


@given(st.fixed_dictionaries(ANY), PROGRESS)
def test_the_rate_is_never_above_its_peak_nor_after_the_warmup_below_its_floor(
    values: dict[str, Any], progress: float
) -> None:
    factor = learning_rate_factor(section(Fit, **values), progress)
    floor = 0.0 if progress < values["warmup_fraction"] else values["final_fraction"]
    assert floor - 1e-9 <= factor <= 1 + 1e-9


@given(st.fixed_dictionaries(ANY | {"warmup_fraction": st.floats(0.01, 0.99)}))
def test_the_warmup_rises_from_nothing_to_the_peak(values: dict[str, Any]) -> None:
    own = section(Fit, **values)
    assert learning_rate_factor(own, 0.0) == 0
    assert learning_rate_factor(own, values["warmup_fraction"] / 2) == pytest.approx(0.5)
    assert learning_rate_factor(own, values["warmup_fraction"]) == pytest.approx(1)


@given(
    st.fixed_dictionaries(ANY | {"decay_fraction": st.floats(0.01, 0.9), "warmup_fraction": st.floats(0.01, 0.9)}),
    PROGRESS,
)
def test_only_restarts_jump(values: dict[str, Any], progress: float) -> None:
    own = section(Fit, **values)
    change = learning_rate_factor(own, min(progress + 1e-7, 1 - 1e-12)) - learning_rate_factor(own, progress)
    restarts = values["schedule"] == "cosine_restarts" and change == pytest.approx(
        1 - values["final_fraction"], abs=1e-3
    )
    assert restarts or abs(change) < 1e-3


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "cosine_restarts"])
def test_the_rate_ends_at_its_floor(schedule: str) -> None:
    for progress in (1 - 1e-9, 1 - 1e-14):
        assert learning_rate_factor(settings(schedule, final_fraction=0.3), progress) == pytest.approx(0.3, abs=1e-6)


def test_cycles_are_equal_and_begin_at_the_peak() -> None:
    own = settings("cosine_restarts", warmup_fraction=0.1, cycles=3)
    starts = [0.1 + 0.9 * cycle / 3 for cycle in range(3)]
    assert [learning_rate_factor(own, start) for start in starts] == pytest.approx([1, 1, 1])
    assert [learning_rate_factor(own, start + 0.15) for start in starts] == pytest.approx([0.5, 0.5, 0.5])


def test_a_decay_as_long_as_the_run_begins_after_the_warmup() -> None:
    own = settings("wsd", warmup_fraction=0.2, decay_fraction=0.95)
    assert [learning_rate_factor(own, progress) for progress in (0.2, 0.6)] == pytest.approx([1, 0.5])
