"""The samples that ship with the project: made by their scripts, one for each scenario, and fit to learn from."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import prepare
from stages.lib.files import read_json
from stages.lib.params import read_section
from stages.lib.params.prepare import Prepare
from stages.tools.compose_samples import files
from tests.build import PROJECT, params_of

SCENARIOS = list(YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")["scenarios"])


def test_the_scripts_make_the_files_byte_for_byte() -> None:
    for path, content in files():
        assert content.encode() == path.read_bytes(), path


def test_every_scenario_has_a_sample_and_every_sample_a_scenario() -> None:
    assert {path.parent.name for path, _ in files()} == set(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_sample_is_large_and_has_no_row_that_prepare_sets_aside(scenario: str, tmp_path: Path) -> None:
    params = read_section(Prepare, params_of(scenario, tmp_path))
    prepare.run(params, 1, Path(params.folder) / scenario, tmp_path / "out")
    account = read_json(tmp_path / "out/account.json")
    assert account["examples"]["train"] >= 200
    assert min(account["examples"]["validation"], account["examples"]["test"]) >= 20
    assert account["rows_set_aside"] == 0
