"""Models that tuning may choose in place of the section's own: what params.yaml may say of them, their token ids side
by side, and that the chosen one is trained as if it stood in params.yaml alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib.checkpoint.tokenizers import train_tokenizer
from stages.lib.core.files import read_json, write_json
from stages.lib.core.params import read_section
from stages.lib.core.process import UserError
from stages.lib.params.model import Model, chosen_model, prediction_folder, report_folder, training_folder
from stages.lib.records.examples import SPLITS
from stages.tools import check_params
from tests import tiny
from tests.build import PARAMS, PROJECT, contents, run_stage, section

VALUES: dict[str, Any] = YAML(typ="safe", pure=True).load(PARAMS)
NARROW: dict[str, Any] = VALUES["architectures"]
CHECKPOINT = {"name": "folder", "folder": "data/raw/models/small"}
ALTERNATIVES: dict[str, dict[str, Any]] = {
    "bert": {"scratch": NARROW["bert"]},
    "small": CHECKPOINT,
    "t5": {"scratch": NARROW["t5"]},
}
# what a params.yaml with that model alone says
ALONE: dict[str, dict[str, Any]] = {
    "t5": {"architecture": "t5"},
    "bert": {"architecture": "bert"},
    "small": {**CHECKPOINT, "architecture": "checkpoint"},
}
IN_ALTERNATIVES = "params.yaml: model -> alternatives"


def write_params(folder: Path, model: dict[str, Any], **sections: dict[str, Any]) -> Path:
    """The params.yaml of the tests, with these values of `model` and of other sections replaced."""
    edits = {"model": model, "train": {"epochs": 0.5}, "fit": {"evals_per_run": 1}} | sections
    values = VALUES | {name: VALUES[name] | edit for name, edit in edits.items()}
    YAML(typ="safe", pure=True).dump(values, folder / "params.yaml")
    return folder / "params.yaml"


def mistakes(folder: Path, alternatives: Any, **model: Any) -> list[str]:
    try:
        read_section(Model, write_params(folder, {"alternatives": alternatives, **model}).relative_to(folder))
    except UserError as error:
        return error.lines
    return []


@pytest.mark.parametrize(
    ("alternatives", "model", "line"),
    [
        pytest.param(
            {"x": {"architecture": "t5"}},
            {},
            " -> x: architecture: DVC is told of one of `architectures` only; write random weights in its place, such "
            "as scratch: {model_type: gpt2, vocabulary_size: 1024, pre_tokenizer: words, n_layer: 2}",
            id="architecture",
        ),
        pytest.param(
            {"x": {"nam": "gpt2"}}, {}, " -> x -> nam: no such parameter; did you mean name?", id="misspelt-parameter"
        ),
        pytest.param({"x": {"family": "cuasal"}}, {}, None, id="family-that-is-not-there"),
        pytest.param({"x": None}, {}, None, id="nothing"),
        pytest.param(
            {"x": {"scratch": {"model_type": "gpt2", "pre_tokenizer": "words"}}},
            {},
            None,
            id="random-weights-without-a-vocabulary",
        ),
        pytest.param(
            {"a b": {"name": "gpt2"}}, {}, " -> a b: a name has letters, digits, - and _ only", id="name-with-a-blank"
        ),
        pytest.param(
            {"model": {"name": "gpt2"}},
            {},
            " -> model: `model` is the name of the section's own model; choose another one",
            id="name-of-the-section",
        ),
        pytest.param(
            {"x": {"name": "folder", "folder": "data/checkpoints/small"}},
            {},
            " -> x: folder: `data/checkpoints/small` is outside of data/raw/models, so DVC would not see it change; "
            "put it there, or change model -> alternatives_folder",
            id="folder-that-dvc-does-not-hash",
        ),
        pytest.param({"x": {"folder": "data/raw/models/../other"}}, {}, None, id="folder-outside-by-dots"),
        pytest.param(
            {"x": {"name": "./small"}},
            {},
            " -> x -> name: `./small` is a path; write `name: folder` and put the path in `folder`",
            id="path-for-a-name",
        ),
        pytest.param(
            {"x": {"name": "scratch"}},
            {},
            " -> x: name: `scratch` is no model; write random weights as scratch: {model_type: ..., ...}",
            id="scratch-for-a-name",
        ),
        pytest.param(
            {"x": {"name": "gpt2", "scratch": NARROW["t5"]}},
            {},
            " -> x: name: random weights have no checkpoint; leave this out, or `scratch`",
            id="random-weights-of-a-checkpoint",
        ),
        pytest.param(
            {"x": {"name": "some/model", "trust_remote_code": "data/raw/base"}},
            {},
            " -> x: trust_remote_code: `data/raw/base` is not the model of this alternative, some/model",
            id="code-of-another-model",
        ),
        pytest.param(
            {"x": {"name": "some/model"}},
            {"name": "other/model", "revision": "abc"},
            " -> x: revision: `abc` is that of other/model; give one of some/model, such as main",
            id="revision-of-another-model",
        ),
    ],
)
def test_a_mistake_in_an_alternative_is_one_line(
    alternatives: Any, model: dict[str, Any], line: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = mistakes(tmp_path, alternatives, **model)
    assert found == f"{IN_ALTERNATIVES}{line}" if line else found.startswith(f"{IN_ALTERNATIVES} -> x")


def test_the_mistakes_of_all_alternatives_are_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alternatives = {
        "one": {"architecture": "t5"},
        "two": {"folder": "elsewhere", "trust_remote_code": "other"},
        "three": {"scratch": {"model_type": "gpt2"}},
    }
    places = {
        line.removeprefix(f"{IN_ALTERNATIVES} -> ").partition(":")[0] for line in mistakes(tmp_path, alternatives)
    }
    assert places == {"one", "two", "three -> scratch -> vocabulary_size", "three -> scratch -> pre_tokenizer"}
    (two,) = (line for line in mistakes(tmp_path, alternatives) if " -> two" in line)
    assert "folder: `elsewhere`" in two
    assert "trust_remote_code: `other`" in two


def test_an_alternative_has_the_values_of_the_section_but_for_what_it_gives() -> None:
    own = {"name": "some/model", "revision": "main", "family": "causal", "trust_remote_code": "some/model"}
    alternatives = {
        "as_encoder": {"family": "encoder"},
        "older": {"revision": "abc"},
        "other": {"name": "other/model", "family": None},
        "random": {"scratch": NARROW["t5"]},
    }
    found = section(Model, **own, architecture="gpt2", alternatives=alternatives).candidates()
    assert list(found) == ["model", *alternatives]
    assert not any(model.alternatives for model in found.values())
    values = {
        name: (model.name, model.revision, model.family, model.trust_remote_code, model.scratch is None)
        for name, model in found.items()
    }
    assert values == {
        "model": ("some/model", "main", "causal", "some/model", False),
        "as_encoder": ("some/model", "main", "encoder", "some/model", True),
        "older": ("some/model", "abc", "causal", "some/model", True),
        "other": ("other/model", "main", None, None, True),  # trust is in one model
        "random": ("some/model", "main", "causal", None, False),
    }
    assert found["random"].title == "random, from random weights"


def test_the_folder_of_an_alternative_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"alternatives": ALTERNATIVES})
    with pytest.raises(UserError) as error:
        check_params.main()
    named = "params.yaml: no folder data/raw/models"
    assert [line.partition(" (")[0] for line in error.value.lines if line.startswith(named)] == [
        named,
        f"{named}/small",
    ]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few rows of the sample, tokenized for all alternatives, and what the later stages read besides."""
    folder = tmp_path_factory.mktemp("alternatives")
    shutil.copy(PROJECT / "dvc.yaml", folder)
    (folder / "stages").symlink_to(PROJECT / "stages")
    raw = folder / "data/raw"
    for name in ("base", "teacher", "models", "general_text", "fluency_model"):
        (raw / name).mkdir(parents=True)
    header, *rows = (PROJECT / "data/raw/data_to_text/places.csv").read_text().splitlines(keepends=True)
    (raw / "data_to_text").mkdir()
    for split, part in (("train", rows[:60]), ("validation", rows[400:406]), ("test", rows[800:806])):
        (raw / f"data_to_text/{split}.csv").write_text("".join([header, *part]))
    small = tiny.ARCHITECTURE | {"n_positions": 512}
    tokens = train_tokenizer(rows, 600, "causal")
    tiny.model(tokens, architecture=small).save_pretrained(raw / "models/small")
    tokens.save_pretrained(raw / "models/small")
    write_params(folder, {"alternatives": ALTERNATIVES})
    for stage in ("prepare", "tokenize"):
        run_stage(folder, stage)
    return folder


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    return copy(project, tmp_path / "copy")


def copy(project: Path, folder: Path) -> Path:
    return shutil.copytree(project, folder, symlinks=True)


def choose(folder: Path, name: str | None, best: dict[str, Any]) -> None:
    """What tune-hyperparameters writes."""
    write_json(folder / "data/tune_hyperparameters/best.json", best)
    write_json(folder / "data/tune_hyperparameters/model.json", {"alternative": name})


def finish(folder: Path) -> None:
    for stage in ("train", "predict-base", "predict"):
        run_stage(folder, stage)


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_the_chosen_alternative_is_trained_and_predicts_as_if_it_were_alone(
    name: str, project: Path, tmp_path: Path
) -> None:
    """Byte for byte, from its token ids on."""
    chosen, alone = copy(project, tmp_path / "chosen"), copy(project, tmp_path / "alone")
    write_params(alone, ALONE[name])
    shutil.rmtree(alone / "data/tokenize")
    run_stage(alone, "tokenize")
    ids = chosen / "data/tokenize"
    names = {f"{folder}/names.json" for folder in ("alternatives", "alternatives_test")}
    expected = {path: own for path, own in contents(alone / "data/tokenize").items() if path not in names}
    found = {
        **contents(training_folder(ids, name)),
        **contents(prediction_folder(ids, name)),
        **{f"report/{path}": content for path, content in contents(report_folder(ids, name)).items()},
    }
    assert found == expected
    best = {"learning_rate": 0.002, "freeze.embeddings": False}
    for folder, choice in ((chosen, name), (alone, None)):
        choose(folder, choice, best)
        finish(folder)
    for out in ("train", "predict", "predict_base"):
        own, other = ({**contents(folder / "data" / out), "report/settings.json": b""} for folder in (chosen, alone))
        assert own == other, out
    settings = [read_json(folder / "data/train/report/settings.json") for folder in (chosen, alone)]
    assert [written.pop("alternative") for written in settings] == [name, None]
    assert [written.pop("from_search") for written in settings] == [["model", "learning_rate"], ["learning_rate"]]
    assert settings[0] == settings[1]


def test_each_alternative_has_ids_of_its_own_tokenizer(project: Path) -> None:
    stats = {name: read_json(report_folder(project / "data/tokenize", name) / "stats.json") for name in ALTERNATIVES}
    counts = {name: [own[split]["tokenized_examples"] for split in SPLITS] for name, own in stats.items()}
    assert set(map(tuple, counts.values())) == {(60, 6, 6)}
    tokens = {own["train"]["source_tokens"]["total"] for own in stats.values()}
    assert len(tokens) == len(ALTERNATIVES)  # other special tokens, another vocabulary


def test_test_texts_change_nothing_that_training_reads(copied: Path) -> None:
    """Else the search and the training would run again for them."""
    before = contents(copied / "data/tokenize/alternatives")
    with (copied / "data/raw/data_to_text/test.csv").open("a") as rows:
        rows.write('name: The New Inn; kind: pub,"The New Inn is a pub."\n')
    for stage in ("prepare", "tokenize"):
        run_stage(copied, stage)
    assert contents(copied / "data/tokenize/alternatives") == before != {}


def test_without_alternatives_their_folders_name_none(copied: Path) -> None:
    before = contents(copied / "data/tokenize")
    write_params(copied, {})
    run_stage(copied, "tokenize")
    after = contents(copied / "data/tokenize")
    names = {path for path in after if "alternatives" in path}
    assert names == {"alternatives/names.json", "alternatives_test/names.json"}
    assert all(json.loads((copied / "data/tokenize" / path).read_text()) == {"names": []} for path in names)
    assert after.keys() - names == {path for path in before if "alternatives" not in path}
    assert all(after[path] == before[path] for path in after.keys() - names)


def test_progress_and_conclusion_name_the_alternative(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage(copied, "tokenize")
    printed = capsys.readouterr()
    lines = [line.partition(":")[0] for line in printed.out.splitlines()]
    assert lines == ["tokenize", "tokenize bert", "tokenize small", "tokenize t5"]
    assert all(f"tokenize {name}validation" in printed.err for name in ("", "t5 ", "bert ", "small "))


def test_it_is_told_which_model_is_trained(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, line in (
        ("small", "train: model small (search), not model"),
        (None, "train: model gpt2, from random weights (params.yaml)"),
    ):
        choose(copied, name, {})
        run_stage(copied, "train")
        assert capsys.readouterr().out.splitlines()[0] == line


def test_a_choice_that_params_yaml_does_not_have_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", {"alternative": "gone"})
    with pytest.raises(UserError, match=r"`gone` is none of params\.yaml: model -> alternatives; run `dvc"):
        chosen_model(section(Model, alternatives=ALTERNATIVES), tmp_path / "model.json")


def free_text(folder: Path) -> dict[str, Any]:
    task = VALUES["scenarios"]["data_to_text"]
    task = task | {"prepare": task["prepare"] | {"source": None}}
    return {"scenarios": VALUES["scenarios"] | {"data_to_text": task}}


def as_chat(folder: Path) -> dict[str, Any]:
    return {"tokenize": {"as_chat": True}}


def without_checkpoint(folder: Path) -> dict[str, Any]:
    (folder / "data/raw/models/small/config.json").unlink()
    return {}


@pytest.mark.parametrize(
    ("prepare", "alternatives", "lines"),
    [
        pytest.param(
            free_text,
            {},
            [f"{IN_ALTERNATIVES} -> bert: tokenize: free text", f"{IN_ALTERNATIVES} -> t5: tokenize: free text"],
            id="free-text",
        ),
        pytest.param(
            as_chat,
            {},
            [f"{IN_ALTERNATIVES} -> bert: tokenize -> as_chat", f"{IN_ALTERNATIVES} -> t5: tokenize -> as_chat: only"],
            id="chat",
        ),
        pytest.param(
            without_checkpoint, {}, [f"{IN_ALTERNATIVES} -> small -> folder: no config.json in"], id="no-checkpoint"
        ),
        pytest.param(
            lambda folder: {},
            {"t5": {"scratch": {**NARROW["t5"], "n_layerr": 2}}, "bert": {"scratch": {**NARROW["bert"], "eos": 1}}},
            [
                f"{IN_ALTERNATIVES} -> bert -> scratch -> eos: no setting of bert",
                f"{IN_ALTERNATIVES} -> t5 -> scratch -> n_layerr: no setting of t5",
            ],
            id="unknown-setting",
        ),
        pytest.param(
            lambda folder: {},
            {name: {"scratch": {**NARROW["gpt2"], "n_positions": 8}} for name in ("t5", "bert")},
            [f"{IN_ALTERNATIVES} -> bert: an example has", f"{IN_ALTERNATIVES} -> t5: an example has"],
            id="too-few-positions",
        ),
        pytest.param(
            lambda folder: {},
            {"t5": {"scratch": NARROW["t5"], "family": "causal"}},
            [f"{IN_ALTERNATIVES} -> t5: t5 can't be used as causal"],
            id="impossible-family",
        ),
    ],
)
def test_what_an_alternative_cannot_do_is_refused_by_its_name(
    prepare: Callable[[Path], dict[str, Any]], alternatives: dict[str, Any], lines: list[str], copied: Path
) -> None:
    """All of them at once."""
    edits = prepare(copied)
    write_params(copied, {"alternatives": ALTERNATIVES | alternatives}, **edits)
    run_stage(copied, "prepare")
    with pytest.raises(UserError) as error:
        run_stage(copied, "tokenize")
    assert [found[: len(line)] for found, line in zip(error.value.lines, lines, strict=True)] == lines
