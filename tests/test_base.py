"""The base model that ships and its sisters: small, plain, better than chance; and the recipe in data/base that makes
them."""

import json
import lzma
import math
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from stages.lib.core.params import read_section, schemas
from tests.build import PROJECT, run_stage
from tests.test_declaration import STAGES
from tests.test_pipeline import edit, ran, run

RECIPE, BASE = PROJECT / "data/base", PROJECT / "data/raw/base"
SEQ2SEQ, ENCODER = PROJECT / "data/raw/models/seq2seq", PROJECT / "data/raw/models/encoder"
ENGLISH = "The old man opened the door, looked at the sky for a while, and said that it would rain before the evening."


@pytest.mark.parametrize(("folder", "most"), [(BASE, 12e6), (SEQ2SEQ, 8e6), (ENCODER, 8e6)])
def test_a_model_is_small_enough_for_git_and_says_what_it_is_made_of(folder: Path, most: float) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < most
    assert {weights.dtype for weights in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert (folder / "NOTICE").read_bytes() == (RECIPE / "NOTICE").read_bytes()


def test_the_card_of_the_base_has_its_held_out_loss() -> None:
    held_out = json.loads((RECIPE / "metrics/evaluate.json").read_text())["bits_per_byte"]
    assert f"{held_out:.4g} bits a byte" in (BASE / "README.md").read_text()


def test_plain_transformers_opens_it_and_it_expects_english() -> None:
    tokenizer, network = AutoTokenizer.from_pretrained(BASE), AutoModelForCausalLM.from_pretrained(BASE)
    ids = tokenizer(ENGLISH, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == ENGLISH
    with torch.no_grad():
        loss = float(network(input_ids=ids, labels=ids).loss)
        shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(1))]
        assert loss < float(network(input_ids=shuffled, labels=shuffled).loss) - 1
    assert loss < math.log(len(tokenizer)) / 1.5  # random weights lose the logarithm


def test_the_encoder_decoder_copies_what_it_reads() -> None:
    """Of names that nobody has seen, it writes each next token."""
    tokenizer, network = AutoTokenizer.from_pretrained(SEQ2SEQ), AutoModelForSeq2SeqLM.from_pretrained(SEQ2SEQ).eval()
    ids = tokenizer("name: Gulfen Vyquo\nkind: Zandra\nHobkalim: Morsti\n", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = network(input_ids=ids, labels=ids).logits.argmax(-1)
    assert (expected == ids).float().mean() > 0.7


def test_the_encoder_expects_english_where_a_token_is_masked() -> None:
    tokenizer, network = AutoTokenizer.from_pretrained(ENCODER), AutoModelForMaskedLM.from_pretrained(ENCODER).eval()
    ids = tokenizer(ENGLISH, return_tensors="pt")["input_ids"].repeat(20, 1)
    places = torch.arange(20) + 1
    masked = ids.clone()
    masked[range(20), places] = tokenizer.mask_token_id
    with torch.no_grad():
        logits = network(input_ids=masked).logits[range(20), places]
    loss = float(torch.nn.functional.cross_entropy(logits, ids[range(20), places]))
    assert loss < math.log(len(tokenizer)) / 1.5


def test_the_recipe_is_the_same_chain_with_valid_params() -> None:
    stages = YAML(typ="safe", pure=True).load(RECIPE / "dvc.yaml")["stages"]
    assert {name: stage["cmd"] for name, stage in stages.items()} == {
        name: f"exec ${{stage}}.{name.replace('-', '_')}" for name in STAGES
    }
    for section in schemas().values():
        assert read_section(section, RECIPE / "params.yaml")


@pytest.mark.slow
def test_the_recipe_makes_a_base_of_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sixty documents and two updates: the chain, the weights and their card are complete."""
    recipe = copied_recipe(tmp_path, monkeypatch)
    runpy.run_path("start.py", run_name="__main__")
    make_facts(monkeypatch, 100)
    for stage in STAGES:
        run_stage(recipe, stage)
    runpy.run_path("publish.py", run_name="__main__")
    assert_complete(tmp_path / "project/data/raw/base", BASE, "bits a byte")
    # DVC finds every dep and out of the chain
    run(recipe, "git", "init", "-q")
    run(recipe, "dvc", "commit", "-q", "-f")
    assert ran(run(recipe, "dvc", "repro", "--dry")) == []


@pytest.mark.slow
def test_the_recipe_makes_the_sisters_of_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = copied_recipe(tmp_path, monkeypatch)
    shutil.copytree(BASE, tmp_path / "project/data/raw/base")
    make_facts(monkeypatch, 100)
    runpy.run_path("start_seq2seq.py", run_name="__main__")
    made_by(monkeypatch, "spans.py", 30)
    edit(recipe, "scenario: corpus", "scenario: spans")
    edit(recipe, "folder: start  ", "folder: start_seq2seq  ")
    edit(recipe, "validation_fraction: 0.01", "validation_fraction: 0.2")
    for stage in STAGES:
        run_stage(recipe, stage)
    runpy.run_path("publish.py", run_name="__main__")
    assert_complete(tmp_path / "project/data/raw/models/seq2seq", SEQ2SEQ, "bits a byte")
    made_by(monkeypatch, "encoder.py", 2)
    assert_complete(tmp_path / "project/data/raw/models/encoder", ENCODER, "nats a masked token")


def copied_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Short, with a corpus of sixty documents; the folder to work in."""
    recipe = folder / "project/data/base"
    made = ("data", "corpus", "spans", "start", "start_seq2seq", "metrics", ".scratch", "cache", "tmp")
    shutil.copytree(RECIPE, recipe, ignore=shutil.ignore_patterns(*made))
    write_corpus(recipe / "corpus")
    monkeypatch.chdir(recipe)
    monkeypatch.syspath_prepend(recipe)
    edit(recipe, "validation_fraction: 0.005", "validation_fraction: 0.1")
    edit(recipe, "\ntrain:\n  epochs: 0.66", "\ntrain:\n  epochs: 0.1")
    edit(recipe, "train_processes: 2", "train_processes: 1")
    return recipe


def assert_complete(published: Path, shipped: Path, measure: str) -> None:
    assert {file.name for file in published.iterdir()} == {file.name for file in shipped.iterdir()}
    assert measure in (published / "README.md").read_text()


def test_the_weights_that_it_starts_from_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("start.py", "texts.py", "params.yaml"):
        shutil.copy(RECIPE / name, tmp_path)
    write_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path("start.py", run_name="__main__")
    network = AutoModelForCausalLM.from_pretrained("start")
    drawn = torch.randint(3, len(AutoTokenizer.from_pretrained("start")), (8, 40))
    with torch.no_grad():
        expected = network(input_ids=drawn.repeat(1, 2)).logits[:, 40:-1].argmax(-1)
    assert (expected == drawn[:, 1:]).float().mean() > 0.5


def test_the_examples_that_need_copying_tell_their_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("facts.py", "texts.py"):
        shutil.copy(RECIPE / name, tmp_path)
    write_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made = make_facts(monkeypatch, 300)
    notation = [(row["facts"], row["text"]) for row in made if re.fullmatch(r"(\w+: [^:;\n]+(; |$))+", row["facts"])]
    assert len(notation) > 20
    for facts, text in notation:
        values = [fact.partition(": ")[2] for fact in facts.split("; ")]
        assert [value for value in values if value not in ("yes", "no") and value.lower() not in text.lower()] == []
    assert len({row["facts"] for row in made}) > 290


def made_by(monkeypatch: pytest.MonkeyPatch, script: str, size: int) -> None:
    monkeypatch.setattr("sys.argv", [script, str(size)])
    runpy.run_path(script, run_name="__main__")


def make_facts(monkeypatch: pytest.MonkeyPatch, examples: int) -> list[dict[str, str]]:
    made_by(monkeypatch, "facts.py", examples)
    with lzma.open("corpus/facts.jsonl.xz", "rt") as file:
        return [json.loads(line) for line in file]


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    held_out = (("narrative_heldout", 3), ("explanatory_heldout", 3), ("howto_heldout", 3))
    for name, documents in (("narrative", 20), ("explanatory", 20), ("howto", 60), *held_out):
        with lzma.open(folder / f"{name}.jsonl.xz", "wt") as file:
            for number in range(documents):
                text = (
                    f"In {name} {number}, Old Mary opened the green door, looked at the grey sky, and left the house."
                )
                file.write(json.dumps({"text": f"{text} {ENGLISH} The door, the sky, said Mary. " * 5}) + "\n")
