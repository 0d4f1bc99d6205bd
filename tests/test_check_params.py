"""check_params: the new name of each renamed parameter, what sections contradict each other in, what the first rows
of the files and the hub tell, and nothing else."""

import gzip
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from ruamel.yaml import YAML

from stages.lib.core.files import write_text
from stages.lib.core.process import UserError
from stages.tools.check_params import RENAMED, main, renamed
from tests.build import PROJECT, params_of


def with_parameter(path: str, value: Any) -> dict[str, Any]:
    *sections, name = path.replace("*", "data_to_text").split(".")
    values = {name: value}
    for section in reversed(sections):
        values = {section: values}
    return values


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_is_answered_with_the_new_one(old: str) -> None:
    (line,) = renamed(with_parameter(old, 1))
    place = old.replace("*", "data_to_text").replace(".", " -> ")
    assert line == f"params.yaml: {place}: is now {RENAMED[old]}"


def test_no_old_name_stands_in_the_real_file() -> None:
    assert list(renamed(YAML(typ="safe", pure=True).load(PROJECT / "params.yaml"))) == []


@pytest.mark.parametrize("has_validation", [False, True])
def test_a_threshold_that_validation_does_not_choose_is_reported_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_validation: bool
) -> None:
    yaml = YAML(typ="safe", pure=True)
    params = params_of("data_to_text", tmp_path)
    values = yaml.load(params)
    scenario = values["scenarios"]["data_to_text"]
    scenario["evaluate"] |= {"metrics": ["exact_match"], "selective_accuracy": 90}
    scenario["predict"]["validation"] = has_validation
    yaml.dump(values, params)
    found = [line for line in lines_of(tmp_path, monkeypatch) if "selective_accuracy" in line]
    assert bool(found) != has_validation


def test_all_that_sections_contradict_each_other_in_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params_of(
        "data_to_text",
        tmp_path,
        machine__sharded=True,
        machine__train_processes=2,
        fit__optimizer="adafactor",
        fit__class_weights="balanced",
        tune_hyperparameters__search={"cycles": {"low": 2, "high": 4}},
    )
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines_of(tmp_path, monkeypatch)] == [
        "machine -> sharded",
        "tune_hyperparameters -> search -> cycles",
        "fit -> class_weights",
    ]


def lines_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is wrong with the params.yaml of a folder, in which there are all files that it names."""
    for name in (
        "data_to_text",
        "base",
        "models",
        "teacher",
        "sentence_encoder",
        "screen",
        "general_text",
        "fluency_model",
    ):
        (folder / "data/raw" / name).mkdir(parents=True, exist_ok=True)
    if not (table := folder / "data/raw/data_to_text/places.csv").exists():
        table.write_text("facts,text\n")
    monkeypatch.chdir(folder)
    try:
        main()
    except UserError as error:
        return error.lines
    return []


QUANTIZED = {"adapters": {"choices": [None, {"rank": 4}]}, "adapters.quantize": {"choices": [False, True]}}


@pytest.mark.parametrize(
    ("search", "trials", "found"),
    [
        ({"optimizer": {"choices": ["adamw", "muon"]}}, 3, ["muon can't update sharded weights"]),
        ({"adapters": {"choices": [None, {"quantize": True}]}}, 3, ["quantized weights can't be sharded"]),
        (QUANTIZED, 3, ["quantized weights can't be sharded"]),
        (
            {"optimizer": {"choices": ["adamw", "muon"]}, **QUANTIZED},
            3,
            ["quantized weights can't be sharded", "muon can't update sharded weights"],
        ),
        ({"optimizer": {"choices": ["adamw", "muon"]}}, 0, []),
        ({"adapters": {"choices": [None, {"rank": 4}]}}, 3, []),
    ],
)
def test_what_the_search_may_find_must_fit_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: dict[str, Any], trials: int, found: list[str]
) -> None:
    """Trials are never sharded, so only training would meet it."""
    edits = {"tune_hyperparameters__search": search, "tune_hyperparameters__trials": trials}
    params_of("data_to_text", tmp_path, machine__sharded=True, machine__train_processes=2, **edits)
    lines = lines_of(tmp_path, monkeypatch)
    assert [line.partition(" -> sharded: ")[2].partition(";")[0] for line in lines] == found


def test_a_form_that_texts_can_not_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")["scenarios"]["data_to_text"]
    scenario["predict"] |= {"json_schema": {"type": "objct"}, "choices": None}
    params_of("data_to_text", tmp_path, scenarios__data_to_text=scenario)
    (line,) = lines_of(tmp_path, monkeypatch)
    assert line == "params.yaml: scenarios -> data_to_text -> predict -> json_schema: Invalid type: objct"
    scenario["predict"] |= {"json_schema": None, "choices": ["a"]}
    scenario["prepare"] |= {"labels": {"a": "a", "b": "b"}}
    params_of("data_to_text", tmp_path, scenarios__data_to_text=scenario)
    (line,) = lines_of(tmp_path, monkeypatch)
    assert "-> predict -> choices: this scenario chooses among its labels (prepare -> labels); write null" in line


def test_models_among_which_the_search_chooses_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"scratch": {"model_type": "gpt2", "vocabulary_size": 1024, "pre_tokenizer": "words"}}
    search = {"dropout": {"choices": [None, 0.1], "when": {"model": ["small", "tiny"]}}}
    edits = {"model__alternatives": {"small": small}, "tune_hyperparameters__search": search}
    params_of("data_to_text", tmp_path, **edits)
    (line,) = lines_of(tmp_path, monkeypatch)
    assert line.endswith("search -> dropout -> when -> model: no such model, tiny; there are model, small")


def raw_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / "data/raw/data_to_text" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data/raw/data_to_text" / name).write_bytes(content)


def params_of_files(folder: Path, **prepare: Any) -> None:
    """The sample's params.yaml, but for these parameters of its scenario."""
    scenarios = YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")["scenarios"]
    scenarios["data_to_text"]["prepare"] |= prepare
    params_of("data_to_text", folder, scenarios=scenarios)


def test_files_that_lack_a_column_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones too, which prepare reads after all others."""
    params_of_files(tmp_path, train="train/*", validation="rows.parquet", test="rows.jsonl")
    raw_files(
        tmp_path,
        {
            "train/1.csv": b"facts,text\na,b\n",
            "train/2.tsv": b"facts\ttxt\na\tb\n",
            "rows.jsonl": b'{"fact": "a", "text": "b"}\n',
        },
    )
    pq.write_table(pa.table({"facts": ["a"], "texts": ["b"]}), tmp_path / "data/raw/data_to_text/rows.parquet")
    assert [line.partition("data_to_text/")[2].partition(";")[0] for line in lines_of(tmp_path, monkeypatch)] == [
        "train/2.tsv: no column text",
        "rows.parquet: no column text",
        "rows.jsonl: no field facts in its only row",
    ]


def test_only_the_first_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a file whose end is missing, and silently: there is no progress to show."""
    params_of_files(tmp_path, train="*.gz")
    rows = [{"facts": str(number**9), "text": str(number**7)} for number in range(9999)]
    cut = gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode())[:-999]
    raw_files(tmp_path, {"rows.jsonl.gz": cut})
    assert lines_of(tmp_path, monkeypatch) == []
    assert capfd.readouterr() == ("", "")


class Hub(HTTPServer):
    """Has all models but three, and keeps what it is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        model = self.path.partition("/resolve/")[0].removeprefix("/")
        self.server.asked.append(model)
        error = {"none": "RepoNotFound", "gated": "GatedRepo", "own/old": "RevisionNotFound"}.get(model)
        self.send_response(404 if error else 200)
        self.send_header(*("X-Error-Code", error) if error else ("ETag", '"1"'))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only hub there is, and an empty local cache."""
    server = Hub()
    url = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_models_that_the_hub_does_not_have_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    random = {"model_type": "gpt2", "vocabulary_size": 300, "pre_tokenizer": "words"}
    models = {"small": {"name": "gated"}, "random": {"scratch": random}}
    edits = {"model__name": "none", "train__teacher": "own/old", "evaluate__sentence_encoder": "own/new"}
    params_of("data_to_text", tmp_path, model__alternatives=models, **edits)
    assert lines_of(tmp_path, monkeypatch) == [
        "params.yaml: model -> name: no model none on the hub; if it is private, set HF_TOKEN to a token that may read "
        "it",
        "params.yaml: model -> alternatives -> small -> name: gated needs access: accept its terms on its page, and "
        "set HF_TOKEN to a token of yours",
        "params.yaml: train -> teacher: own/old has no revision main",
    ]
    assert hub.asked == ["none", "gated", "own/old", "own/new"]


def test_a_hub_that_can_not_be_reached_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    hub.server_close()
    params_of("data_to_text", tmp_path, model__name="none")
    (line,) = lines_of(tmp_path, monkeypatch)
    assert line.startswith("params.yaml: model -> name: none is neither in the local cache nor found on the hub: ")


def test_a_model_that_has_been_used_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """By a stage, or here: what has been made with it is of use without a network."""
    file = params_of("data_to_text", tmp_path, model__name="none")
    values = YAML(typ="safe", pure=True).load(file)
    lock = {"schema": "2.0", "stages": {"tokenize": {"params": {"params.yaml": {"model": values["model"]}}}}}
    (tmp_path / "dvc.lock").write_text(json.dumps(lock))
    assert lines_of(tmp_path, monkeypatch) == []
    params_of("data_to_text", tmp_path, model__name="own/new")
    assert lines_of(tmp_path, monkeypatch) == []
    for name, content in {"refs/main": "1", "snapshots/1/config.json": "{}"}.items():
        write_text(tmp_path / "cache/models--own--new" / name, content)
    assert lines_of(tmp_path, monkeypatch) == []
    assert hub.asked == ["own/new"]
