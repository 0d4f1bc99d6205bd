"""Models in the formats of other programs: the runtime of each writes the texts of transformers, and reads its prompts
as the same tokens."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.checkpoint.tokenizers import train_tokenizer
from stages.lib.core.files import read_json
from stages.lib.core.process import UserError
from stages.lib.export.agreement import CheckedInput
from stages.lib.export.interface import Precision, Source
from stages.lib.inference.folder import write_merged
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.fit import Adapters
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.records.examples import Example
from stages.tools.convert import AGREEMENT, convert, main
from stages.tools.export_model import export
from tests import tiny
from tests.build import prediction, section
from tests.random_weights import widely_drawn
from tests.runs import untrained_run
from tests.test_saving import base_of, save_moved
from tests.tokenizer_kinds import sentencepiece_bpe

_LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
_LLAMA |= {"intermediate_size": 64, "max_position_embeddings": 256}
_LLAMA3_POSITIONS = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
_LLAMA3_POSITIONS |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{name: architecture for name, (architecture, _) in tiny.ARCHITECTURES.items()},
    "grouped llama": {"model_type": "llama", **_LLAMA, "attention_bias": True, "tie_word_embeddings": False},
    "llama 3": {"model_type": "llama", **_LLAMA, "rope_parameters": _LLAMA3_POSITIONS},
    "qwen3": {"model_type": "qwen3", **_LLAMA, "head_dim": 16},
    "sliding mistral": {"model_type": "mistral", **_LLAMA, "sliding_window": 16},
    "relu llama": {"model_type": "llama", **_LLAMA, "hidden_act": "relu"},
    "slow llama": {
        "model_type": "llama",
        **_LLAMA,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
}
PACKAGES = {"gguf": ("gguf", "xllamacpp"), "ctranslate2": ("ctranslate2",), "onnx": ("onnxruntime_genai", "onnx_ir")}
EXPRESSIBLE = [
    *(("gguf", name) for name in ("gpt2", "llama", "grouped llama", "llama 3", "slow llama", "qwen3")),
    *(("ctranslate2", name) for name in ("gpt2", "grouped llama", "t5", "bart", "m2m_100")),
    ("onnx", "grouped llama"),
]


def model_folder(name: str, folder: Path, tokens: PreTrainedTokenizerBase | None = None) -> Path:
    """Its texts differ from source to source."""
    family = tiny.ARCHITECTURES.get(name, (None, "causal"))[1]
    tokens = tokens or tiny.tokenizer(family)
    network = widely_drawn(tiny.model(tokens, architecture=ARCHITECTURES[name] | {"vocabulary_size": len(tokens)}))
    generator = torch.Generator().manual_seed(2)
    for parameter, weights in network.named_parameters():
        if parameter.endswith("bias"):
            torch.nn.init.normal_(weights, std=0.5, generator=generator)
    network.generation_config.suppress_tokens = None  # other programs know no such setting
    network.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def converted(form: str, folder: Path, target: Path, precision: Precision = "float32") -> dict[str, Any]:
    for package in PACKAGES[form]:
        pytest.importorskip(package)
    tokens = AutoTokenizer.from_pretrained(folder)
    inputs = [
        CheckedInput(tokens(fact + "\n")["input_ids"], prediction("", tiny.text(fact), id=fact)) for fact in tiny.FACTS
    ]
    source = Source(folder, folder / "no_adapter", section(Model))
    return convert(form, precision, source, inputs, section(Predict, max_new_tokens=16), section(Evaluate), target)


@pytest.mark.parametrize(("form", "name"), EXPRESSIBLE)
def test_the_runtime_of_the_format_writes_the_texts_of_transformers(form: str, name: str, tmp_path: Path) -> None:
    found = converted(form, model_folder(name, tmp_path / "model"), tmp_path / "out")
    # a tie of two tokens may be decided otherwise: llama.cpp keeps the state of attention in 16 bits
    assert found["mean_common_prefix"] > 0.9
    assert found["equal"] >= len(tiny.FACTS) - 1
    assert read_json(tmp_path / "out" / AGREEMENT) == found


@pytest.mark.parametrize(
    ("form", "name", "told"),
    [
        ("gguf", "t5", "not for t5"),
        ("gguf", "sliding mistral", "sliding window"),
        ("gguf", "relu llama", "silu"),
        ("ctranslate2", "bert", "CTranslate2 can't express this model"),
        ("onnx", "gpt2", "onnxruntime-genai can't express this model"),
    ],
)
def test_what_a_format_cannot_express_is_refused(form: str, name: str, told: str, tmp_path: Path) -> None:
    folder = model_folder(name, tmp_path / "model")
    with pytest.raises(UserError, match=told):
        converted(form, folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_that_the_runtime_computes_otherwise_is_not_kept(tmp_path: Path) -> None:
    """CTranslate2 takes the activation of every Llama to be SiLU."""
    folder = model_folder("relu llama", tmp_path / "model")
    with pytest.raises(UserError, match="computes this model otherwise"):
        converted("ctranslate2", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("form", "precision"), [("gguf", "int8"), ("gguf", "int4"), ("ctranslate2", "int8")])
def test_fewer_bits_take_less_room_and_their_loss_is_told(form: str, precision: Precision, tmp_path: Path) -> None:
    folder = model_folder("grouped llama", tmp_path / "model")
    found = converted(form, folder, tmp_path / "few", precision)
    converted(form, folder, tmp_path / "all")
    few, whole = (weights_of(tmp_path / name).stat().st_size for name in ("few", "all"))
    assert few < 0.6 * whole  # of a model so small, names and vectors take much
    assert found["mean_common_prefix"] > 0
    bleu = found["scores"]["bleu"]
    assert bleu["low"] <= bleu["converted"] - bleu["plain"] <= bleu["high"]


def weights_of(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}NUMBER"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
SPLIT_BY = {
    "gpt2": _WORDS,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _WORDS]),
    "llama 3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_GPT4.replace("NUMBER", "{1,3}")), "isolated"), _BYTES]
    ),
    "qwen": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_GPT4.replace("NUMBER", "")), "isolated"), _BYTES]),
}
ODD_TEXTS = [
    "It's 12345 o'clock",
    "  two blanks\n\n\tand a tab ",
    "Größe: «12 µm», 日本語 🙂",
    "WE'LL see: x=1.5;y<|end|>",
]


@pytest.mark.parametrize("name", SPLIT_BY)
def test_llama_cpp_reads_the_same_tokens(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = _BYTES, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(  # pairs also across words: so tokens show where a text was split
        ODD_TEXTS, trainers.BpeTrainer(vocab_size=330, special_tokens=["<|pad|>", "<|end|>"], initial_alphabet=alphabet)
    )
    unsplit = [backend.encode(text).ids for text in ODD_TEXTS]
    backend.pre_tokenizer = SPLIT_BY[name]
    tokens = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>")
    converted("gguf", model_folder("llama", tmp_path / "model", tokens), tmp_path / "out")
    with llama_server(tmp_path / "out") as ask:
        read = [ask("/tokenize", {"content": text, "parse_special": True})["tokens"] for text in ODD_TEXTS]
    assert read == [tokens(text)["input_ids"] for text in ODD_TEXTS]
    assert read != unsplit


def test_llama_cpp_has_no_tokenizer_with_blanks_as_letters(tmp_path: Path) -> None:
    backend = sentencepiece_bpe([*tiny.FACTS, *map(tiny.text, tiny.FACTS)], 320)
    tokens = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<unk>")
    folder = model_folder("llama", tmp_path / "model", tokens)
    with pytest.raises(UserError, match="this tokenizer is another"):
        converted("gguf", folder, tmp_path / "out")


def test_llama_cpp_decodes_greedily_where_a_request_says_nothing(tmp_path: Path) -> None:
    converted("gguf", model_folder("gpt2", tmp_path / "model"), tmp_path / "out")
    prompt = {"prompt": tiny.FACTS[0] + "\n", "n_predict": 16}
    with llama_server(tmp_path / "out") as ask:
        greedy = ask("/completion", prompt | {"temperature": 0})["content"]
        assert greedy == ask("/completion", prompt | {"seed": 1})["content"]
        assert greedy != ask("/completion", prompt | {"seed": 1, "temperature": 1.5})["content"]


Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


@contextmanager
def llama_server(folder: Path) -> Iterator[Ask]:
    """Yields what asks llama.cpp's server: a path and a request -> its answer."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.verbosity, params.warmup, params.n_ctx = str(folder / "model.gguf"), -1, False, 128
    server = xllamacpp.Server(params)

    def ask(path: str, content: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(server.listening_address + path, json.dumps(content).encode(), headers)) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    yield ask


def test_plain_peft_puts_the_adapter_onto_its_base(tmp_path: Path) -> None:
    saved = save_moved(base_of("gpt2", tmp_path / "base"), tmp_path, adapters=Adapters())
    folder, base = tmp_path / "whole", tmp_path / "base"
    write_merged(saved.base, tmp_path, folder)
    inputs = [CheckedInput(own.source_ids, prediction("", "x", id=own.id)) for own in saved.examples]
    source = Source(folder, tmp_path / "adapter", saved.base)
    sections = section(Predict, max_new_tokens=8), section(Evaluate)
    found = convert("adapter", "float32", source, inputs, *sections, tmp_path / "out")
    assert found["equal"] == len(inputs)
    assert not list((tmp_path / "out").glob("model*"))
    with pytest.raises(UserError, match="computes this model otherwise"):  # that of the base alone
        convert("adapter", "float32", source._replace(folder=base), inputs, *sections, tmp_path / "other")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model is in `model`, as export_model writes it."""
    monkeypatch.chdir(tmp_path)
    untrained_run(tmp_path, [Example(fact, fact, [tiny.text(fact)]) for fact in tiny.FACTS], "gpt2", max_new_tokens=8)
    export(Path("model"))
    return tmp_path


def test_the_command_tells_how_many_texts_are_equal(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ctranslate2")
    monkeypatch.setattr("sys.argv", ["convert", "model", "ctranslate2", "out", "--examples", "5"])
    main()
    assert "ctranslate2 in float32" in (told := capsys.readouterr().out)
    assert "5 of 5 greedy texts equal those of transformers" in told
    assert {"README.md", "prompt.json", "tokenizer.json", AGREEMENT} <= {path.name for path in Path("out").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data", "ctranslate2", "out"], "data: no whole model"),
        (["model", "ctranslate2", "model"], "model: is there already"),
        (["model", "ctranslate2", "out", "--precision", "int4"], "ctranslate2 has float32, float16, int8"),
        (["model", "adapter", "out"], "trained without adapters"),
    ],
)
def test_mistakes_are_told(project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str) -> None:
    monkeypatch.setattr("sys.argv", ["convert", *arguments])
    with pytest.raises(UserError, match=re.escape(told)):
        main()


def test_test_inputs_of_another_tokenizer_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ctranslate2")
    train_tokenizer(["something else"], 262, "causal").save_pretrained("model")
    monkeypatch.setattr("sys.argv", ["convert", "model", "ctranslate2", "out"])
    with pytest.raises(UserError, match="its tokenizer is not that of"):
        main()


def test_a_missing_package_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.tools.convert.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["convert", "model", "onnx", "out"])
    with pytest.raises(UserError, match="make setup EXTRAS=onnx"):
        main()
