"""The base model that ships: small, plain, better than chance; and the recipe in data/base that makes it."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.lib.core.params import read_section, schemas
from tests.build import PROJECT, run_stage
from tests.test_declaration import STAGES
from tests.test_pipeline import edit, ran, run

RECIPE, BASE = PROJECT / "data/base", PROJECT / "data/raw/base"
ENGLISH = "The old man opened the door, looked at the sky for a while, and said that it would rain before the evening."


def test_it_is_small_enough_for_git_and_says_what_it_is_made_of() -> None:
    assert (BASE / "model.safetensors").stat().st_size < 12e6
    assert {weights.dtype for weights in load_file(BASE / "model.safetensors").values()} == {torch.bfloat16}
    assert (BASE / "NOTICE").read_bytes() == (RECIPE / "NOTICE").read_bytes()
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


def test_the_recipe_is_the_same_chain_with_valid_params() -> None:
    stages = YAML(typ="safe", pure=True).load(RECIPE / "dvc.yaml")["stages"]
    assert {name: stage["cmd"] for name, stage in stages.items()} == {
        name: f"exec ${{stage}}.{name.replace('-', '_')}" for name in STAGES
    }
    for section in schemas().values():
        assert read_section(section, RECIPE / "params.yaml")


def test_the_recipe_makes_a_base_of_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sixty documents and two updates: the chain, the weights and their card are complete."""
    recipe = tmp_path / "project/data/base"
    made = ("data", "corpus", "start", "metrics", ".scratch", "cache", "tmp")
    shutil.copytree(RECIPE, recipe, ignore=shutil.ignore_patterns(*made))
    write_corpus(recipe / "corpus")
    monkeypatch.chdir(recipe)
    runpy.run_path("start.py", run_name="__main__")
    make_facts(monkeypatch, 100)
    edit(recipe, "validation_fraction: 0.005", "validation_fraction: 0.1")
    edit(recipe, "\ntrain:\n  epochs: 0.66", "\ntrain:\n  epochs: 0.1")
    edit(recipe, "train_processes: 2", "train_processes: 1")
    for stage in STAGES:
        run_stage(recipe, stage)
    runpy.run_path("publish.py", run_name="__main__")
    published = tmp_path / "project/data/raw/base"
    assert {file.name for file in published.iterdir()} == {file.name for file in BASE.iterdir()}
    assert "bits a byte" in (published / "README.md").read_text()
    # DVC finds every dep and out of the chain
    run(recipe, "git", "init", "-q")
    run(recipe, "dvc", "commit", "-q", "-f")
    assert ran(run(recipe, "dvc", "repro", "--dry")) == []


def test_the_weights_that_it_starts_from_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("start.py", "params.yaml"):
        shutil.copy(RECIPE / name, tmp_path)
    write_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("start.py", run_name="__main__")
    network = AutoModelForCausalLM.from_pretrained("start")
    drawn = torch.randint(3, len(AutoTokenizer.from_pretrained("start")), (8, 40))
    with torch.no_grad():
        expected = network(input_ids=drawn.repeat(1, 2)).logits[:, 40:-1].argmax(-1)
    assert (expected == drawn[:, 1:]).float().mean() > 0.5


def test_the_examples_that_need_copying_tell_their_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(RECIPE / "facts.py", tmp_path)
    write_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    made = make_facts(monkeypatch, 300)
    notation = [(row["facts"], row["text"]) for row in made if re.fullmatch(r"(\w+: [^:;\n]+(; |$))+", row["facts"])]
    assert len(notation) > 20
    for facts, text in notation:
        values = [fact.partition(": ")[2] for fact in facts.split("; ")]
        assert [value for value in values if value not in ("yes", "no") and value.lower() not in text.lower()] == []
    assert len({row["facts"] for row in made}) > 290


def make_facts(monkeypatch: pytest.MonkeyPatch, examples: int) -> list[dict[str, str]]:
    monkeypatch.setattr("sys.argv", ["facts.py", str(examples)])
    runpy.run_path("facts.py", run_name="__main__")
    with lzma.open("corpus/facts.jsonl.xz", "rt") as file:
        return [json.loads(line) for line in file]


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    for name, documents in (("narrative", 20), ("explanatory", 20), ("howto", 60), ("narrative_heldout", 3)):
        with lzma.open(folder / f"{name}.jsonl.xz", "wt") as file:
            for number in range(documents):
                text = (
                    f"In {name} {number}, Old Mary opened the green door, looked at the grey sky, and left the house."
                )
                file.write(json.dumps({"text": f"{text} {ENGLISH} The door, the sky, said Mary. " * 5}) + "\n")
