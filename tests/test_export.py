"""The exported folder: plain transformers, told nothing, writes the texts of predict."""

import ast
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    pipeline,
)

from stages.lib.core.files import read_json, write_json, write_text
from stages.lib.core.process import UserError
from stages.lib.generation.sampling import sample_seed
from stages.lib.records.chats import Turn
from stages.lib.records.examples import Example
from stages.lib.records.predictions import Prediction
from stages.tools.export_model import export
from tests.build import PROJECT, params_of
from tests.runs import DATA, sources, untrained_run

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"repetition_penalty": 1.3, "min_new_tokens": 3},
    "beam": {"strategy": "beam", "beams": 3, "length_penalty": 0.6},
    "sample": {"strategy": "sample", "temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 7},
}
PROMPT = "{source}\ntext: "


def asked(count: int = 9) -> list[Example]:
    return [Example(str(n), source, ["A target."]) for n, source in enumerate(sources(count))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's, in which a run is made. What is exported is in `model`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Write = Callable[[Sequence[Any], int], list[str]]  # questions, batch size -> texts


def by_pipeline() -> Write:
    """Of a causal model. A question is what a user says, or a whole conversation."""
    ask = pipeline("text-generation", "model", device="cpu")

    def write(questions: Sequence[Any], batch_size: int) -> list[str]:
        chats = [own if isinstance(own, list) else [{"role": "user", "content": own}] for own in questions]
        answered = [ask(chat) for chat in chats] if batch_size == 1 else ask(chats, batch_size=batch_size)
        return [own[0]["generated_text"][-1]["content"].strip() for own in answered]

    return write


def by_generate() -> Write:
    """The lines of docs/using.md."""
    is_causal = read_json(Path("model/settings.json"))["train"]["class"] == "causal"
    auto: Any = AutoModelForCausalLM if is_causal else AutoModelForSeq2SeqLM
    model, tokenizer = auto.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
    prompt = json.loads(Path("model/prompt.json").read_text("utf-8"))
    options = {"add_special_tokens": prompt["add_special_tokens"], "padding": True, "return_tensors": "pt"}

    def write(questions: Sequence[str], batch_size: int) -> list[str]:
        texts = list[str]()
        for start in range(0, len(questions), batch_size):
            asked = [prompt["template"].replace("{source}", own) for own in questions[start : start + batch_size]]
            inputs = tokenizer(asked, **options)
            written = model.generate(**{name: inputs[name] for name in ("input_ids", "attention_mask")})
            first = inputs["input_ids"].shape[1] if is_causal else 0
            texts += tokenizer.batch_decode(written[:, first:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    return write


def sampled(write: Write, predictions: Sequence[Prediction], questions: Sequence[Any]) -> list[str]:
    """Each with the seed of its text."""
    texts = list[str]()
    for own, question in zip(predictions, questions, strict=True):
        torch.manual_seed(sample_seed(7, own.id))
        texts += write([question], 1)
    return texts


@pytest.mark.parametrize(
    ("architecture", "strategy", "writer"),
    [
        *(("gpt2", strategy, by_pipeline) for strategy in STRATEGIES),
        ("llama", "beam", by_generate),
        *((architecture, strategy, by_generate) for architecture in ("t5", "bert") for strategy in STRATEGIES),
    ],
)
def test_plain_transformers_writes_the_texts_of_predict(
    architecture: str, strategy: str, writer: Callable[[], Write], folder: Path
) -> None:
    """For prompts of several lengths, alone and in batches."""
    examples = asked()
    settings = STRATEGIES[strategy] | {"max_new_tokens": 12}
    predictions = untrained_run(folder, examples, architecture, tokenize_={"prompt": PROMPT}, **settings)
    export(Path("model"))
    texts, questions = [own.prediction for own in predictions], [own.source for own in examples]
    assert len(set(texts)) > 2, "else equal texts say little"
    write = writer()
    if strategy == "sample":
        assert sampled(write, predictions, questions) == texts
    else:
        assert [write(questions, size) for size in (1, 7)] == [texts, texts]


def documented(number: int, names: dict[str, Any]) -> Any:
    """Runs a block of Python in docs/using.md, with these names and for them. Returns what its last line is worth."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/using.md").read_text("utf-8"), re.DOTALL)
    lines = ast.parse(blocks[number].replace("FOLDER", "model")).body
    last = lines.pop() if isinstance(lines[-1], ast.Expr) else None
    exec(compile(ast.Module(lines, []), "using.md", "exec"), names)
    return eval(compile(ast.Expression(last.value), "using.md", "eval"), names) if isinstance(last, ast.Expr) else None


CHAT, PROMPT_TEXT, GENERATE, CLASSIFY, LABELS, SHORTENED, SEED = range(7)


def test_a_sample_of_a_causal_model_as_documented(folder: Path) -> None:
    predictions = untrained_run(folder, asked(3), "gpt2", max_new_tokens=8, **STRATEGIES["sample"])
    export(Path("model"))
    for own in predictions:
        documented(SEED, {"seed": 7, "id": own.id})
        assert documented(CHAT, {"source": own.source}).strip() == own.prediction


def test_a_text_of_an_encoder_decoder_as_documented(folder: Path) -> None:
    (own,) = untrained_run(folder, asked(1), "t5", max_new_tokens=8)
    export(Path("model"))
    names = {"source": own.source}
    documented(PROMPT_TEXT, names)
    assert documented(GENERATE, names).strip() == own.prediction


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "bert"])
def test_a_label_as_documented(architecture: str, folder: Path) -> None:
    labels = ["a red cup", "a red hat", "a red boat"]
    examples = [Example(own.id, own.source, [labels[int(own.id) % 3]]) for own in asked()]
    predictions = untrained_run(folder, examples, architecture, labels=labels)
    export(Path("model"))
    texts = list[str]()
    for own in predictions:
        names = {"source": own.source}
        documented(PROMPT_TEXT, names)
        if architecture == "bert":
            texts.append(documented(CLASSIFY, names)[0]["label"])
            continue
        auto: Any = AutoModelForCausalLM if architecture == "gpt2" else AutoModelForSeq2SeqLM
        model, tokenizer = auto.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
        inputs = tokenizer(names["text"], add_special_tokens=True, return_tensors="pt")
        texts.append(documented(LABELS, names | {"inputs": inputs, "model": model}))
    assert texts == [own.prediction for own in predictions]
    assert len(set(texts)) > 1


@pytest.mark.parametrize("truncation", ["left", "right"])
def test_a_long_source_is_shortened_as_documented(truncation: str, folder: Path) -> None:
    """As tokenize shortens it: the text of predict is that of the shortened source."""
    limits = {"max_source_tokens": 40, "truncation": truncation, "max_truncated_fraction": 1.0}
    predictions = untrained_run(folder, asked(6), "gpt2", tokenize_={"prompt": PROMPT, **limits}, max_new_tokens=8)
    export(Path("model"))
    tokenizer, write = AutoTokenizer.from_pretrained("model"), by_pipeline()
    names: dict[str, Any] = {"source": "", "tokenizer": tokenizer}
    documented(PROMPT_TEXT, names)
    documented(SHORTENED, names)
    sources = [names["shortened"](own.source) for own in predictions]
    assert any(short != own.source for short, own in zip(sources, predictions, strict=True))
    assert write(sources, 1) == [own.prediction for own in predictions]


def test_a_dialogue_is_asked_with_its_turns(folder: Path) -> None:
    talks = [[Turn("user", source), Turn("assistant", "Why?"), Turn("user", "Só!")] for source in sources(4)]
    examples = [Example(str(n), "", ["Yes."], [*own, Turn("assistant", "Yes.")]) for n, own in enumerate(talks)]
    examples = [
        replace(own, turns=[replace(turn, has_loss=turn.text != "Why?") for turn in own.turns]) for own in examples
    ]
    dialogue = {"source": None, "target": None, "messages": "messages"}
    predictions = untrained_run(folder, examples, "gpt2", prepare=dialogue, max_new_tokens=8)
    export(Path("model"))
    questions = [[turn.message() for turn in own] for own in talks]
    assert [by_pipeline()(questions, size) for size in (1, 7)] == [[own.prediction for own in predictions]] * 2


def test_free_text_is_continued_from_its_opening(folder: Path) -> None:
    examples = [Example(str(n), "", [source]) for n, source in enumerate(sources(4))]
    free = {"source": None, "target": "{text}"}
    prompt = {"prompt": "{source}", "max_target_tokens": 200}
    predictions = untrained_run(folder, examples, "gpt2", free, prompt, max_new_tokens=8, prefix_tokens=4)
    export(Path("model"))
    assert by_pipeline()([own.source for own in predictions], 1) == [own.prediction for own in predictions]


def test_the_folder_says_what_made_it_and_has_the_license_of_its_base(folder: Path) -> None:
    base = folder / "base"
    write_text(base / "README.md", "---\nlanguage: en\nlicense: apache-2.0\n---\n# Base\n")
    write_text(base / "NOTICE", "Made from books.\n")
    untrained_run(folder, asked(2), "gpt2", max_new_tokens=5)
    params_of("data_to_text", folder, model__folder="base")
    export(Path("model"))
    assert Path("model/NOTICE").read_text() == "Made from books.\n"
    assert Path("model/model.safetensors").stat().st_mode == Path("model/config.json").stat().st_mode
    card = ModelCard.load("model/README.md")
    assert card.data.license == "apache-2.0"
    assert "base: apache-2.0; see NOTICE" in card.text
    own = read_json(Path("model/settings.json"))
    assert (own["scenario"], own["predict"]["max_new_tokens"]) == ("data_to_text", 5)
    assert str(folder) not in json.dumps(own)


def test_a_missing_result_and_a_taken_folder_are_told_in_a_line(folder: Path) -> None:
    untrained_run(folder, asked(2), "gpt2", max_new_tokens=2)
    shutil.move(DATA / "predict/settings.json", folder / "moved.json")
    with pytest.raises(UserError, match=r"data/predict/settings.json: not there; run `make repro`"):
        export(Path("model"))
    values = read_json(folder / "moved.json") | {"beems": 3}
    write_json(DATA / "predict/settings.json", values)
    with pytest.raises(UserError, match=r"settings.json -> beems: Extra inputs are not permitted: another version"):
        export(Path("model"))
    shutil.move(folder / "moved.json", DATA / "predict/settings.json")
    with pytest.raises(UserError, match="data: is there already; name a new folder"):
        export(DATA)
