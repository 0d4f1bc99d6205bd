"""params.yaml: the real file is valid, and each mistake is one line that says where it is and what to do."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib.core.params import Section, read_scenario, read_section, schemas
from stages.lib.core.process import UserError
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.prepare import Prepare
from stages.lib.params.train import check_together
from tests.build import PARAMS, PROJECT, section

GONE = object()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder of its own for its params.yaml."""
    monkeypatch.chdir(tmp_path)


def mistakes(edits: dict[str, Any]) -> list[str]:
    """The messages for a stage that uses only `machine`, after edits of the file: {"section.parameter": value}."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(PARAMS)
    for place, value in edits.items():
        *sections, name = place.replace("TASK", "scenarios.data_to_text").split(".")
        holder = content
        for part in sections:
            holder = holder[part]
        if value is GONE:
            del holder[name]
        else:
            holder[name] = value
    yaml.dump(content, Path("params.yaml"))
    return messages()


def messages() -> list[str]:
    try:
        read_section(Machine)
    except UserError as error:
        return error.lines
    return []


@pytest.mark.parametrize("schema", schemas().values())
def test_the_real_file_loads(schema: type[Section]) -> None:
    assert read_section(schema, PROJECT / "params.yaml")


def test_every_section_of_the_real_file_has_a_schema() -> None:
    names = set(YAML(typ="safe").load(PROJECT / "params.yaml")) - {"scenario", "scenarios", "architectures"}
    assert set(schemas()) == names


SEARCH = "tune_hyperparameters.search"
IN_TASK = "params.yaml: scenarios -> data_to_text"
IN_TUNING = "params.yaml: tune_hyperparameters"
IN_SEARCH = f"{IN_TUNING} -> search"


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        pytest.param(
            {"fit.learning_rate": GONE, "fit.learning_rte": 0.1},
            "params.yaml: fit -> learning_rte: no such parameter; did you mean learning_rate?",
            id="misspelt-parameter-is-not-missing-too",
        ),
        pytest.param(
            {"fit.learning_rte": 0.1},
            "params.yaml: fit -> learning_rte: no such parameter; did you mean learning_rate?",
            id="unknown-parameter",
        ),
        pytest.param(
            {"machine.zzz": 1},
            "params.yaml: machine -> zzz: no such parameter; "
            "there are checkpoint_seconds, data_workers, generation_batch_tokens, gradient_checkpointing, "
            "loader_workers, nodes, predict_processes, rendezvous, report_to, sharded, study_database, "
            "train_processes, tune_workers",
            id="unknown-parameter-like-no-other",
        ),
        pytest.param({"fit.seed": GONE}, "params.yaml: fit -> seed: missing", id="missing-parameter"),
        pytest.param({"fit": GONE}, "params.yaml: fit: missing section", id="missing-section"),
        pytest.param(
            {"predit": {}}, "params.yaml: predit: no such section; did you mean predict?", id="unknown-section"
        ),
        pytest.param(
            {"predict": GONE, "predit": {}},
            "params.yaml: predit: no such section; did you mean predict?",
            id="misspelt-section-is-not-missing-too",
        ),
        pytest.param({"fit": [1]}, "params.yaml: fit: expected parameters, found [1]", id="section-is-a-list"),
        pytest.param(
            {"fit.batch_size": "32"},
            "params.yaml: fit -> batch_size: should be a valid integer, found '32'",
            id="text-for-a-number",
        ),
        pytest.param(
            {"fit.learning_rate": "fast"},
            "params.yaml: fit -> learning_rate: should be a valid number, found 'fast'",
            id="word-for-a-number",
        ),
        pytest.param(
            {"fit.seed": True},
            "params.yaml: fit -> seed: should be a valid integer, found True",
            id="true-for-a-number",
        ),
        pytest.param(
            {"predict_base.enabled": 1},
            "params.yaml: predict_base -> enabled: should be a valid boolean, found 1",
            id="number-for-true",
        ),
        pytest.param(
            {"fit.batch_size": None},
            "params.yaml: fit -> batch_size: should be a valid integer, found None",
            id="null-for-a-number",
        ),
        pytest.param(
            {"fit.dropout": 1.5}, "params.yaml: fit -> dropout: should be less than 1, found 1.5", id="out-of-range"
        ),
        pytest.param(
            {"fit.schedule": "cosin"},
            "params.yaml: fit -> schedule: should be 'cosine', 'linear', 'constant', 'wsd' or 'cosine_restarts', found "
            "'cosin'",
            id="not-one-of-the-choices",
        ),
        pytest.param(
            {"model.name": "./mine"},
            "params.yaml: model -> name: `./mine` is a path; write `name: folder` and put the path in `folder`",
            id="path-for-a-model-name",
        ),
        pytest.param(
            {"model.name": "scratch"},
            "params.yaml: model -> name: `scratch` is no model; for random weights set architecture to one of "
            "architectures",
            id="scratch-for-a-model-name",
        ),
        pytest.param(
            {"architectures.gpt2.model_type": GONE},
            "params.yaml: architectures -> gpt2 -> model_type: missing",
            id="architecture-without-type",
        ),
        pytest.param(
            {"architectures.t5.vocabulary_size": 100},
            "params.yaml: architectures -> t5 -> vocabulary_size: should be greater than or equal to 260, found 100",
            id="vocabulary-that-holds-no-bytes",
        ),
        pytest.param(
            {"architectures.checkpoint": {"model_type": "gpt2"}},
            "params.yaml: architectures -> checkpoint: write {}; this one is as the checkpoint has it",
            id="settings-for-the-architecture-of-the-checkpoint",
        ),
        pytest.param(
            {"model.architecture": "gtp2"},
            "params.yaml: model -> architecture: `gtp2` is none of architectures; did you mean gpt2?",
            id="architecture-that-is-not-there",
        ),
        pytest.param(
            {"fit.freeze": {"layers": 2}},
            "params.yaml: fit -> freeze -> layers: no such parameter; did you mean first_layers?",
            id="unknown-part-of-a-parameter",
        ),
        pytest.param(
            {"fit.adapters": {"type": "lora", "rank": 0}},
            "params.yaml: fit -> adapters -> rank: should be greater than or equal to 1, found 0",
            id="adapters-of-no-rank",
        ),
        pytest.param(
            {"machine.nodes": 2},
            "params.yaml: machine -> rendezvous: several nodes need an address to meet at, host:port of one of them",
            id="nodes-without-a-place-to-meet",
        ),
        pytest.param(
            {"machine.sharded": True},
            "params.yaml: machine -> sharded: one process holds the whole model; raise train_processes, or write false",
            id="shards-for-one-process",
        ),
        pytest.param(
            {"model.trust_remote_code": "someone/model"},
            "params.yaml: model -> trust_remote_code: `someone/model` is not the model in use, data/raw/base",
            id="code-of-another-model-than-the-one-in-use",
        ),
        pytest.param(
            {"TASK.prepare.train": "../train.csv"},
            f"{IN_TASK} -> prepare -> train: `../train.csv` is outside the scenario's folder, so DVC would not see it "
            "change",
            id="file-above-the-folder",
        ),
        pytest.param(
            {"TASK.prepare.test": "/data/test.csv"},
            f"{IN_TASK} -> prepare -> test: `/data/test.csv` is outside the scenario's folder, so DVC would not see it "
            "change",
            id="file-elsewhere",
        ),
        pytest.param(
            {"TASK.tokenize.prompt": "Say it:"},
            f"{IN_TASK} -> tokenize -> prompt: must contain {{source}}, the place where the source text goes",
            id="prompt-without-source",
        ),
        pytest.param(
            {"TASK.evaluate.metrics": ["blue"]},
            f"{IN_TASK} -> evaluate -> metrics -> 0: should be 'bleu', 'chrf', 'chrf++', 'ter', 'rouge', 'nist', "
            "'cider', 'parent', 'gleu', 'exact_match', 'token_f1', 'answer_overlap', 'accuracy' or 'macro_f1', "
            "found 'blue'",
            id="metric-that-is-not-there",
        ),
        pytest.param(
            {"TASK.predict.beam": 3},
            f"{IN_TASK} -> predict -> beam: no such parameter; did you mean beams?",
            id="misspelt-in-a-scenario",
        ),
        pytest.param(
            {"TASK.predict.max_new_tokens": GONE},
            f"{IN_TASK} -> predict -> max_new_tokens: missing",
            id="missing-in-a-scenario",
        ),
        pytest.param(
            {"predict.strategy": "beam"},
            "params.yaml: predict -> strategy: depends on the task; move it to the predict of a scenario",
            id="of-a-scenario-in-the-section",
        ),
        pytest.param(
            {"TASK.prepare.seed": 2},
            f"{IN_TASK} -> prepare -> seed: is the same for all tasks; move it to prepare",
            id="of-the-section-in-a-scenario",
        ),
        pytest.param(
            {"scenario": "data_to_txt"},
            "params.yaml: scenario: `data_to_txt` is none of scenarios; did you mean data_to_text?",
            id="scenario-that-is-not-there",
        ),
        pytest.param(
            {"scenario": ["dialogue"]},
            "params.yaml: scenario: `['dialogue']` is none of scenarios; there are data_to_text, sentiment_analysis",
            id="scenario-is-a-list",
        ),
        pytest.param(
            {"scenario": None},
            "params.yaml: scenario: `None` is none of scenarios; there are data_to_text, sentiment_analysis",
            id="scenario-is-null",
        ),
        pytest.param(
            {"scenarios": {}},
            "params.yaml: scenario: `data_to_text` is none of scenarios; there are none",
            id="no-scenarios",
        ),
        pytest.param(
            {"TASK.tokenize.packing": True},
            f"{IN_TASK} -> tokenize -> packing: documents are cut into pieces, long ones too; write long_target: split",
            id="packed-but-not-split",
        ),
        pytest.param({"scenario": GONE}, "params.yaml: scenario: missing section", id="no-scenario-chosen"),
        pytest.param(
            {"TASK.predict": GONE}, f"{IN_TASK} -> predict: missing section", id="scenario-without-a-part-of-a-stage"
        ),
        pytest.param(
            {"TASK.predict": [1]},
            f"{IN_TASK} -> predict: expected parameters, found [1]",
            id="part-of-a-scenario-is-a-list",
        ),
        pytest.param(
            {"TASK.predikt": {}}, f"{IN_TASK} -> predikt: no such section; did you mean predict?", id="unknown-part"
        ),
        pytest.param(
            {SEARCH: {"learning_rte": {"low": 0.1, "high": 0.2}}},
            f"{IN_SEARCH} -> learning_rte: no such parameter of fit; did you mean learning_rate?",
            id="search-over-no-setting-of-fit",
        ),
        pytest.param(
            {SEARCH: {"adapter.rank": {"low": 4, "high": 8}}},
            f"{IN_SEARCH} -> adapter.rank: no such parameter of fit; did you mean adapters?",
            id="search-below-no-section-of-fit",
        ),
        pytest.param(
            {SEARCH: {"freeze.layers": {"low": 0, "high": 2}}},
            f"{IN_SEARCH} -> freeze.layers: no such parameter of fit.freeze; did you mean first_layers?",
            id="search-over-no-setting-of-a-section",
        ),
        pytest.param(
            {SEARCH: {"model": {"choices": ["small"]}}},
            f"{IN_SEARCH} -> model: no such parameter of fit; there are "
            "adapters, attention, batch_size, batch_tokens, class_weights, compile, cycles, decay_fraction, dropout, "
            "early_stopping_patience, evals_per_run, final_fraction, freeze, l1, label_smoothing, layer_decay, "
            "learning_rate, liger, max_grad_norm, micro_batch_tokens, neftune_alpha, optimizer, precision, schedule, "
            "seed, warmup_fraction, weight_decay",
            id="search-over-models-that-are-no-alternatives",
        ),
        pytest.param(
            {SEARCH: {"learning_rate": {"low": -1.0, "high": 0.2}}},
            f"{IN_SEARCH} -> learning_rate -> low: should be greater than 0, found -1.0",
            id="search-out-of-range",
        ),
        pytest.param(
            {SEARCH: {"dropout": {"low": 0.1, "high": 2.0}}},
            f"{IN_SEARCH} -> dropout -> high: should be less than 1, found 2.0",
            id="search-out-of-range-of-what-may-be-null",
        ),
        pytest.param(
            {SEARCH: {"batch_size": {"low": 8.5, "high": 16}}},
            f"{IN_SEARCH} -> batch_size -> low: should be a valid integer, got a number with a fractional part, found "
            "8.5",
            id="fraction-for-a-whole-number-in-search",
        ),
        pytest.param(
            {SEARCH: {"batch_size": {"low": 8, "high": 16, "step": 1.5}}},
            f"{IN_SEARCH} -> batch_size -> step: should be a valid integer, got a number with a fractional part, found "
            "1.5",
            id="fraction-for-a-whole-step",
        ),
        pytest.param(
            {SEARCH: {"liger": {"low": 0, "high": 1}}},
            f"{IN_SEARCH} -> liger: it is true or false; give `choices`",
            id="range-of-true-and-false",
        ),
        pytest.param(
            {SEARCH: {"schedule": {"choices": ["cosine", "cosin"]}}},
            f"{IN_SEARCH} -> schedule -> choices -> 1: should be 'cosine', 'linear', 'constant', 'wsd' or "
            "'cosine_restarts', found 'cosin'",
            id="search-over-an-unknown-choice",
        ),
        pytest.param(
            {SEARCH: {"batch_size": {"choices": ["8"]}}},
            f"{IN_SEARCH} -> batch_size -> choices -> 0: should be a valid integer, found '8'",
            id="text-for-a-number-in-search",
        ),
        pytest.param(
            {SEARCH: {"adapters": {"choices": [None, {"ranks": 4}]}}},
            f"{IN_SEARCH} -> adapters -> choices -> 1 -> ranks: no such parameter; did you mean rank?",
            id="misspelt-in-a-searched-section",
        ),
        pytest.param(
            {SEARCH: {"dropout": {"low": 0.0, "high": 0.2, "when": {"schedul": ["wsd"]}}}},
            f"{IN_SEARCH} -> dropout -> when -> schedul: no such parameter of fit; did you mean schedule?",
            id="search-that-depends-on-no-setting",
        ),
        pytest.param(
            {SEARCH: {"dropout": {"low": 0.0, "high": 0.2, "when": {"adapters.rank": [8, 0]}}}},
            f"{IN_SEARCH} -> dropout -> when -> adapters.rank -> 1: should be greater than or equal to 1, found 0",
            id="search-that-depends-on-an-impossible-value",
        ),
        pytest.param(
            {SEARCH: {"learning_rate": {"low": 0.2, "high": 0.1}}},
            f"{IN_SEARCH} -> learning_rate: give `choices`, or `low` and a larger `high`",
            id="search-upside-down",
        ),
        pytest.param(
            {SEARCH: {"learning_rate": {"low": 0.1, "high": 0.2, "choices": [0.1]}}},
            f"{IN_SEARCH} -> learning_rate: give either `choices` (one or more) or `low` and `high`",
            id="search-of-two-forms",
        ),
        pytest.param(
            {SEARCH: {"dropout": {"low": 0.0, "high": 0.2, "log": True}}},
            f"{IN_SEARCH} -> dropout: a logarithmic scale needs `low` above 0",
            id="logarithm-of-nothing",
        ),
        pytest.param(
            {SEARCH: {"learning_rate": {"low": 0.1, "high": 0.2, "log": True, "step": 0.1}}},
            f"{IN_SEARCH} -> learning_rate: `step` goes neither with `log` nor with `points`",
            id="steps-on-a-logarithmic-scale",
        ),
        pytest.param(
            {SEARCH: {"batch_size": {"low": 8, "high": 16, "step": 9}}},
            f"{IN_SEARCH} -> batch_size: `step` is longer than the range",
            id="step-out-of-the-range",
        ),
        pytest.param(
            {SEARCH: {"learning_rate": {"lowe": 0.1, "high": 0.2}}},
            f"{IN_SEARCH} -> learning_rate -> lowe: no such parameter; did you mean low?",
            id="misspelt-in-search",
        ),
        pytest.param(
            {SEARCH: {"learning_rate": {"low": "x", "high": 0.2}}},
            f"{IN_SEARCH} -> learning_rate -> low: should be a valid number, found 'x'",
            id="word-for-a-number-in-search",
        ),
        pytest.param(
            {"tune_hyperparameters.pruner": "median", "tune_hyperparameters.cost": "flops"},
            f"{IN_TUNING} -> pruner: median can't weigh two objectives; write null, or set cost to null",
            id="pruner-of-two-objectives",
        ),
        pytest.param(
            {"tune_hyperparameters.pruner": "wilcoxon", "tune_hyperparameters.metric": "bleu"},
            f"{IN_TUNING} -> pruner: wilcoxon compares losses of examples; set metric: loss, or take another one",
            id="pruner-of-losses-without-losses",
        ),
        pytest.param(
            {"tune_hyperparameters.sampler": "cma_es", "tune_hyperparameters.cost": "parameters"},
            f"{IN_TUNING} -> sampler: cma_es has one objective; take tpe or gp, or set cost to null",
            id="sampler-of-one-objective",
        ),
        pytest.param(
            {"tune_hyperparameters.sampler": "tpa"},
            f"{IN_TUNING} -> sampler: should be 'grid', 'random', 'quasi_random', 'tpe', 'gp' or 'cma_es', found 'tpa'",
            id="unknown-sampler",
        ),
        pytest.param(
            {"tune_hyperparameters.confirm": {"trials": 2, "epochs": 1}},
            f"{IN_TUNING} -> confirm -> seeds: missing",
            id="confirmation-without-seeds",
        ),
    ],
)
def test_a_mistake_is_one_line(edits: dict[str, Any], line: str) -> None:
    assert mistakes(edits) == [line]


IN_PREPARE = f"{IN_TASK} -> prepare"
NO_SOURCE: dict[str, Any] = {"source": None}
CHAT: dict[str, Any] = {**NO_SOURCE, "target": None, "messages": "messages"}
TEST_WITHOUT: dict[str, Any] = {"target": {"train": "{text}", "test": None}}


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        pytest.param(
            {"conversation": {"turn": "(?P<role>a"}},
            "conversation -> turn: `(?P<role>a` is no regular expression: missing ), unterminated subpattern at "
            "position 0",
            id="turn-is-no-pattern",
        ),
        pytest.param(
            {"conversation": {"turn": "#(?P<speaker>.+)#"}},
            "conversation -> turn: `#(?P<speaker>.+)#` has no group (?P<role>...), which finds who speaks",
            id="turn-without-a-role",
        ),
        pytest.param(
            {"conversation": {"roles": {"Person1": "human"}}},
            "conversation -> roles -> Person1: should be 'system', 'user', 'assistant' or 'tool', found 'human'",
            id="unknown-role",
        ),
        pytest.param(
            {"conversation": {"role": {"a": "user"}}},
            "conversation -> role: no such parameter; did you mean roles?",
            id="misspelt-parameter-of-conversation",
        ),
        pytest.param(
            {"extract": {"author": {"field": "id", "pattern": "["}}},
            "extract -> author -> pattern: `[` is no regular expression: unterminated character set at position 0",
            id="extract-is-no-pattern",
        ),
        pytest.param(
            {"extract": {"author": {"field": "id", "pattern": "a.*"}}},
            "extract -> author -> pattern: `a.*` has no group in parentheses, which finds the value",
            id="extract-without-a-group",
        ),
        pytest.param(
            {"extract": {"author": {"pattern": "(a)"}}}, "extract -> author -> field: missing", id="extract-of-nothing"
        ),
        pytest.param(
            {"target": {"validation": "{text}"}},
            "target: give the template of train; validation and test have the same unless they name their own",
            id="target-without-train",
        ),
        pytest.param(
            {"source": {"test": "{facts}"}},
            "source: give the template of train; validation and test have the same unless they name their own",
            id="source-without-train",
        ),
        pytest.param({"target": []}, "target: it names no column", id="no-target"),
        pytest.param(
            {"target": ["{a}", "b"]},
            "target: `b` names no column; write one in braces, such as {target}",
            id="one-of-several-targets-names-no-column",
        ),
        pytest.param(
            {"target": {"train": "{text}", "validation": None}},
            "target: only test can be without answers",
            id="validation-without-answers",
        ),
        pytest.param(
            {"target": {"train": "{text}", "validation": []}},
            "target: only test can be without answers",
            id="validation-with-no-answers",
        ),
        pytest.param(
            {**TEST_WITHOUT, "test": None},
            "target: a test split taken from train has its answers; give its files in `test`",
            id="no-answers-for-a-share-of-train",
        ),
        pytest.param(
            {**TEST_WITHOUT, **NO_SOURCE},
            "target: free text without its text is nothing; name the field of test too",
            id="no-answers-for-free-text",
        ),
        pytest.param({**CHAT, "messages": []}, "messages: an empty list names no field", id="no-messages"),
        pytest.param(
            {**CHAT, "source": "{facts}"},
            "source: with `messages`, the turns before an answer are its source; write source: null",
            id="messages-and-source",
        ),
        pytest.param(
            {"reading": {"thread": {"id": "a", "parent": "b", "role": "c"}}},
            "reading -> thread -> text: missing",
            id="thread-without-text",
        ),
        pytest.param(
            {"reading": {"max_record_lines": 0}},
            "reading -> max_record_lines: should be greater than or equal to 1, found 0",
            id="no-lines-in-a-record",
        ),
        pytest.param(
            {"reading": {"max_record_ratio": 1}},
            "reading -> max_record_ratio: should be greater than or equal to 2, found 1",
            id="no-record-longer-than-usual",
        ),
        pytest.param(
            {"known_ngrams": "../tests.bin"},
            "known_ngrams: `../tests.bin` is outside the scenario's folder, so DVC would not see it change",
            id="ngrams-outside-of-the-folder",
        ),
        pytest.param(
            {"labels": {True: "yes", "true": "no"}},
            "labels: give two labels or more, each with a word of its own: {value in the data: word}",
            id="label-twice",
        ),
    ],
)
def test_a_mistake_in_how_data_are_read_is_one_line(parameters: dict[str, Any], line: str) -> None:
    edits = {f"TASK.prepare.{name}": value for name, value in parameters.items()}
    assert mistakes(edits) == [f"{IN_PREPARE} -> {line}"]


@pytest.mark.parametrize(
    ("parameters", "place", "found"),
    [
        pytest.param({"train": ["a.csv", "b.csv"]}, "train", "['a.csv', 'b.csv']", id="list-of-files"),
        pytest.param({"train": {"facts": "a.txt", "text": 3}}, "train -> text", "3", id="aligned-file"),
        pytest.param({"source": ["{a}"]}, "source", "['{a}']", id="list-of-sources"),
        pytest.param({"target": ["{a}", 3]}, "target -> 1", "3", id="one-of-several-targets"),
        pytest.param({"target": {"train": "{a}", "tst": None}}, "target -> tst", "'tst'", id="unknown-split"),
        pytest.param({"target": {"train": ["{a}", 3]}}, "target -> train -> 1", "3", id="target-of-a-split"),
        pytest.param({**CHAT, "messages": 3}, "messages", "3", id="messages"),
    ],
)
def test_a_value_that_can_have_several_forms_and_has_none_is_one_line(
    parameters: dict[str, Any], place: str, found: str
) -> None:
    (line,) = mistakes({f"TASK.prepare.{name}": value for name, value in parameters.items()})
    assert line.startswith(f"{IN_PREPARE} -> {place}: should be ")
    assert line.endswith(f"found {found}")


@pytest.mark.parametrize("delimiter", [";;", "", "\n", "\r", '"'])
def test_a_delimiter_is_one_character_that_can_divide_columns(delimiter: str) -> None:
    (line,) = mistakes({"TASK.prepare.reading": {"delimiter": delimiter}})
    assert line.startswith(f"{IN_PREPARE} -> reading -> delimiter: ")
    assert "give one character" in line


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({**TEST_WITHOUT, "test": "test.csv"}, id="test-without-answers"),
        pytest.param({"target": {"train": "{text}", "test": ["{r1}", "{r2}"]}}, id="references-in-columns"),
        pytest.param({"target": ["{r1}", "{r2?}"], "source": {"train": "{a}", "test": "{b}"}}, id="columns-of-test"),
        pytest.param({**CHAT, "messages": ["prompt", "completion"]}, id="messages-in-columns"),
        pytest.param({**CHAT, "conversation": {"turn": "(?m)^(?P<role>[AB]): ", "merge": None}}, id="turns-in-a-text"),
        pytest.param({"reading": {"delimiter": "\t", "comment": "#", "skip_lines": 2, "quoted": False}}, id="table"),
        pytest.param({"extract": {"author": {"field": "id", "pattern": "^([^/]+)/"}}}, id="extract"),
        pytest.param({"labels": {0: "no", 1: "yes"}}, id="numbers-as-labels"),
    ],
)
def test_what_data_need_can_be_said(parameters: dict[str, Any]) -> None:
    assert mistakes({f"TASK.prepare.{name}": value for name, value in parameters.items()}) == []


@pytest.mark.parametrize(("written", "value"), [(True, "true"), (False, "false"), (1, "1"), (-1, "-1"), ("a", "a")])
def test_labels_are_the_texts_that_rows_have(written: Any, value: str) -> None:
    assert section(Prepare, labels={written: "one", "other": "two"}).labels == {value: "one", "other": "two"}


def test_only_plain_weights_are_sharded() -> None:
    machine = section(Machine, sharded=True, train_processes=2)
    check_together(section(Fit), machine)
    with pytest.raises(UserError) as error:
        check_together(section(Fit, adapters={"quantize": True}, optimizer="muon"), machine)
    assert error.value.lines == [
        "params.yaml: machine -> sharded: quantized weights can't be sharded; set fit -> adapters -> quantize: false, "
        "or write false",
        "params.yaml: machine -> sharded: muon can't update sharded weights; set fit -> optimizer: adamw, or write "
        "false",
    ]
    check_together(section(Fit, adapters={"quantize": True}, optimizer="muon"), section(Machine))


def test_all_mistakes_of_a_search_are_told_at_once() -> None:
    search = {
        "learning_rte": {"low": 0.1, "high": 0.2},
        "dropout": {"low": -0.1, "high": 2.0, "when": {"schedul": ["wsd"]}},
        "schedule": {"choices": ["cosin", "wsdd"]},
        "batch_size": {"low": 4, "high": 2},
    }
    edits = {SEARCH: search, "tune_hyperparameters.epochs": 0}
    places = [line.removeprefix(f"{IN_TUNING} -> ").partition(": ")[0] for line in mistakes(edits)]
    assert places == ["epochs", "search -> batch_size"]  # the form of each search comes before its values
    del search["batch_size"]
    places = [line.removeprefix(f"{IN_TUNING} -> ").partition(": ")[0] for line in mistakes(edits)]
    assert places == [
        "epochs",
        "search -> dropout -> low",
        "search -> dropout -> high",
        "search -> dropout -> when -> schedul",
        "search -> learning_rte",
        "search -> schedule -> choices -> 0",
        "search -> schedule -> choices -> 1",
    ]


def test_a_pruner_and_a_sampler_that_have_one_objective_are_told_at_once() -> None:
    names = {"sampler": "cma_es", "pruner": "hyperband", "cost": "flops"}
    lines = mistakes({f"tune_hyperparameters.{name}": value for name, value in names.items()})
    assert [line.split(": ")[1] for line in lines] == [
        "tune_hyperparameters -> pruner",
        "tune_hyperparameters -> sampler",
    ]


def test_a_scenario_is_named_by_a_word() -> None:
    """It is part of paths, and of parameters' names for DVC, where a dot would divide it."""
    values = YAML(typ="safe", pure=True).load(PARAMS)["scenarios"]["data_to_text"]
    for name in ("my-task", "my.task", "my task", "2024", 2024):
        yaml = YAML(typ="safe", pure=True)
        content = yaml.load(PARAMS)
        content["scenarios"][name] = values
        yaml.dump(content, Path("params.yaml"))
        wanted = "a name begins with a letter, and has letters, digits and underscores only"
        assert messages() == [f"params.yaml: scenarios -> {name}: {wanted}"]


def test_a_mistake_is_reported_once_and_where_it_is() -> None:
    edits = {"tokenize.shown_examples": -1, "TASK.prepare.target": 2, "scenarios.sentiment_analysis.prepare.target": 3}
    assert [line.split(": ")[1] for line in mistakes(edits)] == [
        "scenarios -> data_to_text -> prepare -> target",
        "scenarios -> sentiment_analysis -> prepare -> target",
        "tokenize -> shown_examples",
    ]


def test_the_chosen_scenario_completes_the_section() -> None:
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(PARAMS)
    content["scenario"] = "sentiment_analysis"
    yaml.dump(content, Path("params.yaml"))
    assert read_scenario() == "sentiment_analysis"
    assert read_section(Prepare).train == "reviews.csv"
    assert read_section(Prepare).seed == content["prepare"]["seed"]


def test_the_mistakes_of_all_sections_are_reported_at_once() -> None:
    edits = {"fit.seed": GONE, "train.epochs": 0, "predict.seed": -1, "TASK.tokenize.prompt": "", "predit": {}}
    found = [line.removeprefix("params.yaml: ").partition(": ")[0] for line in mistakes(edits)]
    assert sorted(found) == sorted(
        [
            "fit -> seed",
            "train -> epochs",
            "predict -> seed",
            "scenarios -> data_to_text -> tokenize -> prompt",
            "predit",
        ]
    )


@pytest.mark.parametrize("written", ["1e-05", "2e-5", "5E-4", "0.001", "1"])
def test_a_number_as_dvc_or_a_hand_writes_it_is_a_float(written: str) -> None:
    text = re.sub(r"(?m)^  learning_rate: \S+", f"  learning_rate: {written}", PARAMS.read_text("utf-8"))
    Path("params.yaml").write_text(text, "utf-8")
    rate = read_section(Fit).learning_rate
    assert (rate, type(rate)) == (float(written), float)


def test_null_is_a_value_where_the_comments_say_so() -> None:
    places = (
        "TASK.prepare.validation",
        "TASK.prepare.test",
        "tune_hyperparameters.max_train_examples",
        "tune_hyperparameters.max_validation_examples",
        "fit.dropout",
        "fit.early_stopping_patience",
        "TASK.predict.top_k",
    )
    assert mistakes(dict.fromkeys(places)) == []


@pytest.mark.parametrize(
    ("name", "dimension"),
    [
        ("learning_rate", {"low": 0.001, "high": 0.1, "log": True}),
        ("learning_rate", {"low": 0.001, "high": 0.1, "log": True, "points": 3}),
        ("batch_size", {"choices": [16, 32]}),
        ("batch_size", {"low": 16, "high": 64, "step": 16}),
        ("schedule", {"choices": ["cosine", "linear"]}),
        ("precision", {"choices": ["float32", "auto"]}),
        ("dropout", {"low": 0.0, "high": 0.3, "step": 0.1}),
        ("dropout", {"choices": [None, 0.1], "when": {"schedule": ["cosine", "wsd"], "model": ["model"]}}),
        ("early_stopping_patience", {"choices": [None, 3]}),
        ("class_weights", {"choices": ["balanced", None, {"good": 2.0}]}),
        ("freeze", {"choices": [{}, {"embeddings": True}]}),
        ("freeze.first_layers", {"low": 0, "high": 4}),
        ("freeze.names", {"choices": [[], ["*.attn.*"]]}),
        ("adapters", {"choices": [None, {"type": "dora", "rank": 4}]}),
        ("adapters.rank", {"choices": [4, 8], "when": {"adapters.type": ["lora"]}}),
    ],
)
def test_any_setting_of_fit_can_be_searched(name: str, dimension: dict[str, Any]) -> None:
    assert mistakes({SEARCH: {name: dimension}}) == []


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("\tseed: 1", id="tab"),
        pytest.param("  seed: 1\n  seed: 2", id="given-twice"),
        pytest.param("  seed: [1", id="bracket"),
        pytest.param("  seed: 1: 2", id="two-colons"),
        pytest.param('  seed: "1', id="quote"),
    ],
)
def test_broken_yaml_is_reported_with_its_line(ending: str) -> None:
    Path("params.yaml").write_text(f"fit:\n  epochs: 1\n{ending}\n", "utf-8")
    (line,) = messages()
    assert re.fullmatch(r"params\.yaml: line [345]: not valid YAML: .+", line)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"- fit\n- predict\n", id="list"),
        pytest.param(b"fit\n", id="word"),
        pytest.param(b"fit: \x00\n", id="control-character"),
        pytest.param("fit: \xe9\n".encode("latin-1"), id="not-utf-8"),
    ],
)
def test_a_file_without_sections_is_one_line(content: bytes) -> None:
    Path("params.yaml").write_bytes(content)
    (line,) = messages()
    assert re.fullmatch(r"params\.yaml: .+", line)


def test_a_number_as_the_name_of_a_section_is_no_traceback() -> None:
    Path("params.yaml").write_text(PARAMS.read_text("utf-8") + "\n1: {}\n", "utf-8")
    (line,) = messages()
    assert line.startswith("params.yaml: 1: no such section")


def test_no_file_at_all_says_where_to_run_from() -> None:
    assert messages() == ["params.yaml: no such file; run from the project's top folder"]


def test_a_stage_with_a_mistake_exits_with_2_and_no_traceback() -> None:
    text, edits = re.subn(r"(?m)^  learning_rate:", "  learning_rte:", PARAMS.read_text("utf-8"))
    assert edits == 1
    Path("params.yaml").write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "params.yaml: fit -> learning_rte: no such parameter; did you mean learning_rate?\n"
