"""The samples that ship with the project: composed by data/samples, one for each scenario, and enough to train on."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from data.samples.__main__ import files
from stages import prepare
from stages.lib.core.files import read_json
from stages.lib.core.params import read_section
from stages.lib.params.prepare import Prepare
from tests.build import PROJECT, params_of

SCENARIOS = list(YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")["scenarios"])


def test_the_composers_write_the_files_byte_for_byte() -> None:
    for path, content in files():
        assert content.encode() == path.read_bytes(), path


def test_every_scenario_has_a_sample_and_every_sample_a_scenario() -> None:
    assert {path.parent.name for path, _ in files()} == set(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_sample_is_large_and_has_no_rejected_row(scenario: str, tmp_path: Path) -> None:
    params = read_section(Prepare, params_of(scenario, tmp_path))
    prepare.run(params, 1, Path(params.folder) / scenario, tmp_path / "out")
    stats = read_json(tmp_path / "out/report/stats.json")
    assert stats["examples"]["train"] >= 200
    assert min(stats["examples"]["validation"], stats["examples"]["test"]) >= 20
    assert stats["rows_rejected"] == 0
