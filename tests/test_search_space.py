"""The search space: which settings a trial reads and draws, what it refuses, and what the samplers make of it.

Studies are in memory here, and nothing is trained: the loss is a formula.
"""

import math
import statistics
from contextlib import nullcontext
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from stages.lib.core.process import UserError
from stages.lib.params.fit import Adapters, Fit
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.tuning.samplers import make_sampler, trial_count
from stages.lib.tuning.space import Settings, Space
from tests.build import section

RATES = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
SCHEDULES = {"schedule": {"choices": ["cosine", "cosine_restarts", "wsd"]}}
ADAPTERS: dict[str, Any] = {"adapters": {"choices": [None, {"type": "lora"}]}, "adapters.rank": {"choices": [4, 8]}}
SAMPLERS = ("random", "quasi_random", "tpe", "gp", "cma_es")
PLACE = "params.yaml: tune_hyperparameters -> search"
# a setting of each form, conditional ones among them
EVERY: dict[str, Any] = {
    **RATES,
    **SCHEDULES,
    **ADAPTERS,
    "cycles": {"low": 2, "high": 5},
    "decay_fraction": {"low": 0.1, "high": 0.3, "step": 0.1},
    "batch_size": {"low": 4, "high": 64, "log": True},
    "early_stopping_patience": {"choices": [None, 2, 3]},
    "freeze.first_layers": {"low": 0, "high": 2},
    "freeze.embeddings": {"choices": [False, True], "when": {"adapters": [None]}},
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def params_of(search: dict[str, Any], **overrides: Any) -> TuneHyperparameters:
    return section(TuneHyperparameters, **({"trials": 8, "search": search} | overrides))


def space_of(
    search: dict[str, Any], fit: dict[str, Any] | None = None, models: tuple[str, ...] = ("model",), **params: Any
) -> Space:
    return Space(params_of(search, **params), section(Fit, **(fit or {})), models)


def refused(search: dict[str, Any], **rest: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        space_of(search, **rest)
    return [line.removeprefix(f"{PLACE} -> ") for line in error.value.lines]


def loss(settings: Settings) -> float:
    return abs(math.log(settings["learning_rate"] / 0.002)) + (settings.get("adapters.rank", 0) == 4)


def drawn(
    search: dict[str, Any],
    sampler: str,
    trials: int = 8,
    before: list[FrozenTrial] | None = None,
    directions: int = 1,
    **params: Any,
) -> tuple[list[Settings], list[FrozenTrial]]:
    """The settings of so many trials, and what a study knows of them afterwards. `before` is what it knows already."""
    values = params_of(search, sampler=sampler, **params)
    space = Space(values, section(Fit))
    study = optuna.create_study(
        sampler=make_sampler(values, space), directions=[StudyDirection.MINIMIZE] * directions, study_name="s"
    )
    study.add_trials(before or [])
    found = []
    for _ in range(trials - len(before or [])):
        trial = study.ask()
        found.append(space.suggest(trial))
        study.tell(trial, [loss(found[-1]), float(trial.number)][:directions])
    return found, study.trials


def test_the_settings_of_params_are_those_that_a_trial_reads() -> None:
    assert space_of(EVERY).of_params() == {
        "learning_rate": 0.004,
        "schedule": "cosine",
        "batch_size": 32,
        "early_stopping_patience": None,
        "adapters": None,
        "freeze.first_layers": 0,
        "freeze.embeddings": False,
    }


def test_names_are_those_of_the_file_in_its_order() -> None:
    assert space_of(EVERY).names == [*EVERY]
    assert space_of(RATES, models=("model", "small")).names == ["model", "learning_rate"]


@pytest.mark.parametrize(
    ("fit", "read"),
    [
        ({}, {"schedule", "adapters"}),
        ({"schedule": "cosine_restarts"}, {"schedule", "adapters", "cycles"}),
        ({"schedule": "wsd"}, {"schedule", "adapters", "decay_fraction"}),
        ({"adapters": {"rank": 4}}, {"schedule", "adapters", "adapters.rank"}),
    ],
)
def test_what_a_trial_reads_depends_on_its_other_settings(fit: dict[str, Any], read: set[str]) -> None:
    search = {name: EVERY[name] for name in ("cycles", "decay_fraction", "schedule", "adapters.rank")}
    search["adapters"] = {"choices": [None, {"type": "lora"}, {"type": "lora", "rank": 4}]}
    assert space_of(search, fit).of_params().keys() == read


def test_sizes_in_examples_are_read_where_there_are_none_in_tokens() -> None:
    search = {"batch_size": {"choices": [8, 16]}, "batch_tokens": {"choices": [None, 1000]}}
    grid = space_of(search, {"batch_size": 8}).grid
    assert grid[:2] == [{"batch_tokens": None, "batch_size": 8}, {"batch_tokens": None, "batch_size": 16}]
    assert grid[2:] == [{"batch_tokens": 1000}]


@pytest.mark.parametrize(
    ("when", "search", "read"),
    [
        pytest.param({"schedule": ["wsd"]}, SCHEDULES, [False, False, True], id="choice"),
        pytest.param({"schedule": ["wsd", "cosine"]}, SCHEDULES, [True, False, True], id="one-of-two"),
        pytest.param({"model": ["small"]}, {}, [False, True], id="model"),
        pytest.param(
            {"adapters": [{"type": "lora"}]}, {"adapters": ADAPTERS["adapters"]}, [False, True], id="section-in-short"
        ),
        pytest.param(
            {"adapters.rank": [16]},
            {"adapters": {"choices": [None, {"rank": 8}, {"rank": 16}]}},
            [False, False, True],
            id="inside-of-a-chosen-section",
        ),
        pytest.param(
            {"adapters.rank": [8]}, {"adapters": ADAPTERS["adapters"]}, [False, True], id="default-of-a-chosen-section"
        ),
    ],
)
def test_a_setting_can_be_read_only_with_values_of_another(
    when: dict[str, Any], search: dict[str, Any], read: list[bool]
) -> None:
    """The other one stands behind it in the file: what decides is drawn first."""
    dimension = {"choices": [0.0, 0.1], "when": when}
    models = ("model", "small") if "model" in when else ("model",)
    grid = space_of({"dropout": dimension, **search}, {"dropout": 0.0}, models).grid
    decisive = {
        str({name: value for name, value in settings.items() if name != "dropout"}): settings for settings in grid
    }
    assert ["dropout" in settings for settings in decisive.values()] == read


def test_a_value_in_a_section_of_params_does_not_decide_where_a_trial_has_another_section() -> None:
    search = {
        "adapters": {"choices": [None, {"rank": 4}, {"rank": 16}]},
        "dropout": {"choices": [0.0, 0.1], "when": {"adapters.rank": [4]}},
    }
    grid = space_of(search, {"adapters": {"rank": 4}, "dropout": 0.0}).grid
    assert ["dropout" in settings for settings in grid] == [False, True, True, False]


def test_conditions_can_depend_on_conditions() -> None:
    search: dict[str, Any] = {
        "dropout": {"choices": [0.0, 0.1], "when": {"adapters.rank": [8]}},
        **ADAPTERS,
    }
    grid = space_of(search, {"dropout": 0.0}).grid
    assert grid == [
        {"adapters": None},
        {"adapters": {"type": "lora"}, "adapters.rank": 4},
        {"adapters": {"type": "lora"}, "adapters.rank": 8, "dropout": 0.0},
        {"adapters": {"type": "lora"}, "adapters.rank": 8, "dropout": 0.1},
    ]


def test_a_chosen_section_can_leave_out_parts_and_is_not_changed() -> None:
    space = space_of(ADAPTERS)
    settings = {"adapters": {"type": "lora"}, "adapters.rank": 4}
    values = space.values(settings)
    assert values["adapters"] == {**section(Fit, adapters={"rank": 4}).model_dump()["adapters"]}
    assert settings == {"adapters": {"type": "lora"}, "adapters.rank": 4}
    assert space.values({"adapters": {"type": "lora"}})["adapters"]["rank"] == 8
    assert Fit.model_validate(values).adapters == Adapters(rank=4)


def test_the_value_of_params_is_found_among_sections_in_short() -> None:
    assert space_of(ADAPTERS, {"adapters": {}}).of_params() == {"adapters": {"type": "lora"}, "adapters.rank": 8}


def test_all_that_the_search_contradicts_is_told_at_once() -> None:
    search = {
        "cycles": {"low": 2, "high": 4},
        "learning_rate": {"low": 0.01, "high": 0.1},
        "dropout": {"choices": [0.0, 0.2]},
        "adapters.rank": {"choices": [4, 8]},
        "weight_decay": {"low": 0.0, "high": 0.1, "when": {"schedule": ["wsd"]}},
        "l1": {"low": 0.0, "high": 0.1, "when": {"label_smoothing": [0.0]}},
        "label_smoothing": {"low": 0.0, "high": 0.1, "when": {"l1": [0.0]}},
        "neftune_alpha": {"low": 0.0, "high": 5.0, "when": {"model": ["smal", "model"]}},
    }
    assert refused(search, models=("model", "small")) == [
        "cycles: only read with fit -> schedule: cosine_restarts; write that, or delete this search",
        "learning_rate: does not hold 0.004, the value of fit -> learning_rate, which the first trial has; widen it, "
        "or change that value",
        "dropout: does not hold 0.1, the value of fit -> dropout, which the first trial has; widen it, or change that "
        "value",
        "adapters.rank: only read with fit -> adapters; write some, or delete this search",
        "weight_decay: only read with fit -> schedule: wsd; write that, or delete this search",
        "l1 -> when: it decides on itself",
        "label_smoothing -> when: it decides on itself",
        "neftune_alpha -> when -> model: no such model, smal; did you mean small?",
    ]


SIZES, TOKENS = {"batch_size": {"choices": [8, 32]}}, {"batch_tokens": {"low": 1000, "high": 2000}}
CYCLES, DECAYS = {"cycles": {"low": 2, "high": 4}}, {"decay_fraction": {"low": 0.1, "high": 0.4}}
FLOORS = {"final_fraction": {"low": 0.0, "high": 0.1}}


@pytest.mark.parametrize(
    ("search", "fit", "read"),
    [
        (SIZES, {"batch_tokens": None}, True),
        (SIZES, {"batch_tokens": 1000}, False),
        (SIZES | TOKENS, {"batch_tokens": 1000}, False),
        (SIZES | {"batch_tokens": {"choices": [None, 1000]}}, {"batch_tokens": 1000}, True),
        (CYCLES, {"schedule": "cosine"}, False),
        (CYCLES, {"schedule": "cosine_restarts"}, True),
        (DECAYS, {"schedule": "linear"}, False),
        (DECAYS | {"schedule": {"choices": ["linear", "wsd"]}}, {"schedule": "linear"}, True),
        (FLOORS, {"schedule": "constant"}, False),
        (FLOORS, {"schedule": "linear"}, True),
    ],
)
def test_a_search_over_what_no_trial_reads_is_refused(search: dict[str, Any], fit: dict[str, Any], read: bool) -> None:
    with nullcontext() if read else pytest.raises(UserError, match=f"search -> {next(iter(search))}: only read with"):
        space_of(search, fit)


@pytest.mark.parametrize(
    ("search", "fit", "line"),
    [
        ({"early_stopping_patience": {"low": 2, "high": 9}}, {}, "does not hold null, the value of fit -> early"),
        ({"freeze.first_layers": {"low": 1, "high": 2}}, {}, "does not hold 0, the value of fit -> freeze -> first_"),
        ({"liger": {"choices": [True]}}, {}, "does not hold false, the value of fit -> liger"),
        ({"adapters": {"choices": [None, {"rank": 4}]}}, {"adapters": {"rank": 8}}, 'does not hold {"alpha": 16, '),
    ],
)
def test_the_value_of_params_must_be_in_the_space(search: dict[str, Any], fit: dict[str, Any], line: str) -> None:
    (found,) = refused(search, fit=fit)
    assert found.startswith(f"{next(iter(search))}: {line}")


def test_a_value_that_the_first_trial_does_not_read_can_be_outside() -> None:
    space = space_of({**SCHEDULES, "cycles": {"low": 4, "high": 6}}, {"cycles": 3})
    assert space.of_params() == {"schedule": "cosine"}


def test_nothing_to_search_for_is_refused_unless_the_only_trial_is_that_of_params() -> None:
    assert refused({}, trials=2) == [f"{PLACE}: nothing to search for; name a setting, or write trials: 0"]
    assert space_of({}, trials=1).of_params() == {}
    assert space_of({}, models=("model", "small"), trials=2).names == ["model"]


def test_a_grid_needs_to_know_what_to_enumerate() -> None:
    search = {**RATES, "dropout": {"low": 0.0, "high": 0.2}, "batch_size": {"low": 8, "high": 64, "log": True}}
    assert refused(search, sampler="grid") == [
        f"{name}: a grid needs `points`, `step` or `choices`" for name in ("learning_rate", "dropout", "batch_size")
    ]


def test_a_grid_that_nobody_would_try_is_refused() -> None:
    names = ("learning_rate", "dropout", "l1", "weight_decay")
    search = {name: {"low": 0.001, "high": 0.5, "points": 20} for name in names}
    fit = {"l1": 0.01}
    assert refused(search, fit=fit, sampler="grid") == [
        f"{PLACE}: a grid of up to 160,000 trials; give fewer points, or take another sampler"
    ]
    assert space_of(search, fit).names == [*search]


@pytest.mark.parametrize(
    ("name", "dimension", "values"),
    [
        ("learning_rate", {"low": 0.001, "high": 0.1, "log": True, "points": 3}, [0.001, 0.01, 0.1]),
        ("learning_rate", {"low": 0.001, "high": 0.004, "points": 4}, [0.001, 0.002, 0.003, 0.004]),
        ("dropout", {"low": 0.1, "high": 0.35, "step": 0.1}, [0.1, 0.2, 0.3]),
        ("batch_size", {"low": 30, "high": 33}, [30, 31, 32, 33]),
        ("batch_size", {"low": 16, "high": 63, "step": 16}, [16, 32, 48]),
        ("batch_size", {"low": 8, "high": 64, "log": True, "points": 4}, [8, 16, 32, 64]),
        ("batch_size", {"low": 31, "high": 33, "points": 5}, [31, 32, 33]),
        ("schedule", {"choices": ["cosine", "wsd"]}, ["cosine", "wsd"]),
    ],
)
def test_a_grid_has_these_values(name: str, dimension: dict[str, Any], values: list[Any]) -> None:
    grid = space_of({name: dimension}, sampler="grid").grid
    assert [settings[name] for settings in grid] == values
    assert all(type(settings[name]) is type(value) for settings, value in zip(grid, values, strict=True))


def test_a_grid_has_each_combination_once_that_differs_in_what_is_read() -> None:
    search = {**SCHEDULES, "cycles": {"choices": [2, 3]}, "dropout": {"choices": [0.0, 0.1]}, **ADAPTERS}
    grid = space_of(search, sampler="grid").grid
    assert len(grid) == (1 + 2 + 1) * 2 * (1 + 2)
    assert len({str(settings) for settings in grid}) == len(grid)


def test_a_grid_ends_with_its_last_combination_and_does_not_repeat_the_first_trial() -> None:
    search = {**SCHEDULES, "dropout": {"choices": [0.0, 0.1]}}
    params = params_of(search, sampler="grid", trials=100)
    space = Space(params, section(Fit))
    assert trial_count(params, space) == 6
    assert trial_count(params_of(search, sampler="grid", trials=4), space) == 4
    outside = Space(params_of(RATES | {"learning_rate": {"low": 0.001, "high": 0.01, "points": 2}}), section(Fit))
    assert trial_count(params, outside) == 3  # 0.004 is no point of the grid


def test_a_grid_is_tried_whole_in_an_order_that_the_seed_draws() -> None:
    search = {**RATES, "dropout": {"choices": [0.0, 0.1]}, "batch_size": {"choices": [16, 32]}}
    search["learning_rate"] = {"choices": [0.002, 0.004]}
    (first, trials), (other, _) = (drawn(search, "grid", seed=seed) for seed in (1, 2))
    for known in range(8):
        assert drawn(search, "grid", trials=known + 1, before=trials[:known])[0] == first[known : known + 1]
    every = Space(params_of(search), section(Fit)).grid
    for order in (first, other):
        assert sorted(map(str, order)) == sorted(map(str, every))
        assert order[0] == {"learning_rate": 0.004, "dropout": 0.1, "batch_size": 32}
    assert first != other


def assert_within(settings: Settings) -> None:
    """In the ranges of EVERY, in few digits, and only what is read."""
    assert 1e-4 <= settings["learning_rate"] <= 1e-2
    assert settings["learning_rate"] == float(f"{settings['learning_rate']:.4g}")
    assert settings["schedule"] in SCHEDULES["schedule"]["choices"]
    assert settings["early_stopping_patience"] in (None, 2, 3)
    for name, low, high in (("cycles", 2, 5), ("batch_size", 4, 64), ("freeze.first_layers", 0, 2)):
        assert type(settings.get(name, low)) is int
        assert low <= settings.get(name, low) <= high
    assert settings.get("decay_fraction", 0.1) in (0.1, 0.2, 0.3)
    assert settings["adapters"] in (None, {"type": "lora"})
    assert settings.get("adapters.rank", 4) in (4, 8)
    assert ("cycles" in settings) == (settings["schedule"] == "cosine_restarts")
    assert ("decay_fraction" in settings) == (settings["schedule"] == "wsd")
    assert ("adapters.rank" in settings) == (settings["adapters"] is not None)
    assert ("freeze.embeddings" in settings) == (settings["adapters"] is None)


@pytest.mark.filterwarnings("error", "ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_begins_with_params_and_draws_in_the_space(sampler: str) -> None:
    trials = 24 if sampler != "gp" else 12  # it takes its time
    found, _ = drawn(EVERY, sampler, trials=trials)
    assert found[0] == Space(params_of(EVERY), section(Fit)).of_params()
    for settings in found:
        assert_within(settings)
        Fit.model_validate(space_of(EVERY).values(settings))
    assert len({settings["learning_rate"] for settings in found}) > trials - 4


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("sampler", ["random", "quasi_random", "tpe", "gp"])
def test_two_objectives_are_drawn_for_too(sampler: str) -> None:
    found, _ = drawn(EVERY, sampler, trials=12, directions=2)
    for settings in found:
        assert_within(settings)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_search_draws_what_an_unbroken_one_draws(sampler: str) -> None:
    """After any trial, by a sampler that has drawn nothing before."""
    unbroken, trials = drawn(EVERY, sampler, trials=13)
    for known in range(len(trials)) if sampler != "gp" else (0, 1, 5, 12):
        settings, _ = drawn(EVERY, sampler, trials=known + 1, before=trials[:known])
        assert settings == unbroken[known : known + 1]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])  # it draws at one go, in milliseconds
def test_a_trial_that_was_half_drawn_is_drawn_to_its_end_as_in_an_unbroken_search(sampler: str) -> None:
    search = {name: EVERY[name] for name in ("learning_rate", "batch_size", "schedule")}
    unbroken, trials = drawn(search, sampler, trials=14)
    for number in (1, 13):
        params = params_of(search, sampler=sampler)
        space = Space(params, section(Fit))
        first, second = (optuna.create_study(sampler=make_sampler(params, space), study_name="s") for _ in range(2))
        for study in (first, second):
            study.add_trials(trials[:number])
        half = first.ask()
        half.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        known = first.trials[number]
        second.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=known.params,
                distributions=known.distributions,
                system_attrs=known.system_attrs,
            )
        )
        assert space.suggest(second.ask()) == unbroken[number]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_seed_decides(sampler: str) -> None:
    one, again, other = (drawn(EVERY, sampler, trials=6, seed=seed)[0] for seed in (1, 1, 2))
    assert one == again
    assert one[0] == other[0]
    assert all(own != another for own, another in zip(one[1:], other[1:], strict=True))


def test_quasi_random_settings_fill_the_range() -> None:
    """Of 16 points of a scrambled Sobol sequence, each sixteenth of the range has one."""
    for seed in (1, 2):
        found, _ = drawn(RATES, "quasi_random", trials=17, seed=seed)
        shares = [math.log10(settings["learning_rate"] / 1e-4) / 2 for settings in found[1:]]
        assert sorted(math.floor(16 * share) for share in shares) == [*range(16)]


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 60), ("gp", 14), ("cma_es", 60)])
def test_a_sampler_that_learns_comes_closer(sampler: str, trials: int) -> None:
    losses = [loss(settings) for settings in drawn(RATES, sampler, trials=trials)[0]]
    assert statistics.mean(losses[10:]) < 0.8 * statistics.mean(losses[:10])


@pytest.mark.filterwarnings("error", "ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_value_of_params_need_not_be_a_step(sampler: str) -> None:
    search = {
        "learning_rate": {"low": 0.001, "high": 0.0039, "step": 0.001},
        "batch_size": {"low": 3, "high": 32, "step": 8},
    }
    params = params_of(search, sampler=sampler)
    space = Space(params, section(Fit, learning_rate=0.0035))
    study = optuna.create_study(sampler=make_sampler(params, space))
    found = []
    for _ in range(14):
        trial = study.ask()
        found.append(space.suggest(trial))
        study.tell(trial, loss(found[-1]))
    assert found[0] == {"learning_rate": 0.0035, "batch_size": 32}
    assert {settings["learning_rate"] for settings in found[1:]} <= {0.001, 0.002, 0.003}
    assert {settings["batch_size"] for settings in found[1:]} <= {3, 11, 19, 27}


def test_a_rounded_value_stays_in_the_range() -> None:
    search = {"dropout": {"low": 0.099994, "high": 0.99999}}
    (dimension,) = params_of(search).search.values()
    assert [dimension.at(share, whole=False) for share in (0.0, 0.5, 1.0)] == [0.099994, 0.55, 0.99999]
    assert space_of(search).of_params() == {"dropout": 0.1}
