"""Tests compute on the processor, wherever they run; those of a GPU do where they are asked for: `pytest -m gpu`."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also for stages that tests start
