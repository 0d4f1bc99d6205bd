"""Tests compute on the CPU, also where there is a GPU, except for those that need one: `pytest -m gpu`. Slow ones run
only if asked for: `pytest -m slow`."""

import gc
import os

import pytest
from hypothesis import settings


def pytest_configure(config: pytest.Config) -> None:
    os.environ["DVC_NO_ANALYTICS"] = "1"  # else commands in a new repository send reports, from more processes
    settings.register_profile("any machine", deadline=None)  # a busy one would fail right code
    settings.load_profile("any machine")
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also for stages that tests start


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest tests first: when one process has finished its tests, it takes over some of the other's."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)
    if config.getoption("markexpr") != "slow":
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="`pytest -m slow`, when there is time"))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()  # Trainer collects garbage at every start; without this, it looks at everything imported


def pytest_sessionfinish(session: pytest.Session) -> None:
    gc.unfreeze()  # DuckDB would report what is not collected at the end as leaked
