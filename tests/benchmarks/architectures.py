"""Every model type of the installed transformers, at a tiny size: whether it trains here as in plain transformers.

Run: `python -m tests.benchmarks.architectures [NAME ...]`, where a NAME is that of a group or a model type. Finished
rows are kept in .scratch/architectures.jsonl, and a run without names continues after them; delete the file to begin
anew. docs/architectures.md has the result.

A model is built from random weights, widely drawn. It is saved, and plain transformers opens it. Then these must agree:
loss and gradient of all examples in our layout with those of one pair at a time in plain transformers, without pads,
masks and positions; greedy texts of our batches, where one source begins with another one, with those of `generate` for
one source at a time; and the loss of the checkpoint as a pretrained model with dropout, saved again. Each case has a
process and a limit of time of its own.
"""

import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto as auto

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.models.attention import without_segments
from stages.lib.models.families import interface_of
from stages.lib.models.families.causal import first_position
from stages.lib.models.families.interface import unwrap
from stages.lib.models.layouts import Layout, allowed_groups, check_causal, choose_layout
from stages.lib.models.loading import base_model, saved_model
from stages.lib.models.losses import summed_loss
from stages.lib.params.model import Family, Model
from stages.lib.params.predict import Predict
from stages.lib.records.tokenized_examples import Label, TokenizedExample
from stages.lib.training.kernels import use_kernels
from tests import tiny
from tests.build import PROJECT, scratch_model, section
from tests.random_weights import widely_drawn

RESULTS = PROJECT / ".scratch/architectures.jsonl"
SECONDS = 30  # of processor time, for one case
LOSS, GRADIENT = 2e-5, 2e-3  # relative differences that are rounding
LABELS = ["bad", "fair", "good"]
NEW_TOKENS = 4

Result = Literal["ok", "refused", "wrong", "traceback", "plain fails"]


@dataclass(frozen=True)
class Group:
    family: Family
    classes: str  # of transformers: model types that have one
    auto_class: str
    labels: tuple[str, ...] = ()


GROUPS = {
    "causal": Group("causal", "CAUSAL_LM", "AutoModelForCausalLM"),
    "seq2seq": Group("seq2seq", "SEQ_TO_SEQ_CAUSAL_LM", "AutoModelForSeq2SeqLM"),
    "classifier": Group("encoder", "SEQUENCE_CLASSIFICATION", "AutoModelForSequenceClassification", tuple(LABELS)),
    "bert2bert": Group("encoder", "MASKED_LM", "AutoModelForSeq2SeqLM"),
    "encoder as causal": Group("causal", "MASKED_LM", "AutoModelForCausalLM"),
    "with images or sound": Group("causal", "IMAGE_TEXT_TO_TEXT", "AutoModelForCausalLM"),
}


@dataclass(frozen=True)
class Row:
    group: str
    architecture: str
    result: Result
    layout: str = ""
    loss: float | None = None  # relative difference
    gradient: float | None = None  # the same
    line: str = ""  # of a refusal, or what is wrong


def main(names: Sequence[str]) -> None:
    kept = [Row(**json.loads(line)) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    rows = {(row.group, row.architecture): row for row in kept}
    for group, architecture in cases():
        is_named = group in names or architecture in names
        if is_named or (not names and (group, architecture) not in rows):
            row = rows[group, architecture] = in_a_process(group, architecture)
            print(_line(row), flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows.values()))
    print("\n" + summary(list(rows.values())))


def cases() -> Iterator[tuple[str, str]]:
    """Group and model type."""
    for group in GROUPS:
        for architecture in _types(group):
            yield group, architecture


def _types(group: str) -> list[str]:
    listed = list(getattr(auto, f"MODEL_FOR_{GROUPS[group].classes}_MAPPING_NAMES"))
    encoders, decoders = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if group == "causal":
        return [name for name in listed if name not in encoders]
    if group in ("bert2bert", "encoder as causal"):
        return [name for name in listed if name not in decoders]
    return listed


def in_a_process(group: str, architecture: str) -> Row:
    """The row of this case, which may crash or take too long."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_row, args=(there, group, architecture))
    process.start()
    there.close()
    try:
        row = here.recv()
    except EOFError:
        row = Row(group, architecture, "traceback", line=f"the process ended, or took more than {SECONDS} s")
    process.join(1)
    process.kill()
    return row


def _send_row(connection: Connection, group: str, architecture: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    row = Row(group, architecture, "ok")
    folder = tempfile.mkdtemp()
    try:
        row = checked(row, Path(folder))
    except UserError as error:
        row = replace(row, result="refused", line=error.lines[0].replace(folder, "FOLDER"))
    except _PlainFailure as error:
        row = replace(row, result="plain fails", line=str(error))
    except Exception as error:  # of any class: it is what the table reports
        place = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(place.filename).name}:{place.lineno})"
        row = replace(row, result="traceback", line=line)
    finally:
        shutil.rmtree(folder)
    connection.send(row)


class _PlainFailure(Exception):
    """Plain transformers can't build the model at this size, or compute or continue one example."""


def checked(row: Row, folder: Path) -> Row:
    """The row with its results. Raises UserError where the stages refuse the model, or another error of the model."""
    group = GROUPS[row.group]
    tokens = tiny.tokenizer(group.family)
    whole = _whole_model(row.architecture, folder / "whole", tokens) if row.group == "with images or sound" else None
    source = _model_in(folder / "whole") if whole else _scratch(row.architecture, group.family)
    network = base_model(source, tokens, group.labels, 0.0, seed=1)
    if whole is None and row.architecture != "mobilebert":  # its norms are so simple that gradients would be infinite
        widely_drawn(network)
    if row.architecture == "youtu":  # plain transformers does so whenever it opens a checkpoint of this type
        with torch.no_grad():
            cast(Any, network.get_input_embeddings()).weight[network.config.pad_token_id] = 0
    network.save_pretrained(folder / "saved")
    # the language part of a model that also reads images may be an encoder-decoder
    plain_class = GROUPS["seq2seq"].auto_class if whole and network.config.is_encoder_decoder else group.auto_class
    plain = getattr(transformers, plain_class).from_pretrained(folder / "saved")
    examples = _examples(tokens, group)
    with _failures_of_plain():
        expected, gradients = _one_at_a_time(plain.train(), examples)
        texts = _plain_texts(plain, tokens, examples, group)
    use_kernels(network, tiny.settings())
    check_causal(network, examples)
    layout = choose_layout(network, examples)
    if layout != "packed":
        without_segments(network)
    ours, own_gradients = _in_our_layout(network, examples, layout)
    loss, gradient = abs(ours - expected) / expected, _difference(own_gradients, gradients)
    again = _saved_again(_model_in(folder / "saved", family=source.family), tokens, group, folder / "again")
    is_wrong = {
        "loss": loss > LOSS,
        "gradient": not gradient <= GRADIENT,  # also where it is not a number
        "texts": _texts(network, tokens, examples, group) != texts,
        "checkpoint": not _have_same_loss(again, plain, examples),
        "language part": whole is not None and not _choose_alike(whole, plain, examples),
    }
    faults = ", ".join(name for name, wrong in is_wrong.items() if wrong)
    return replace(row, result="wrong" if faults else "ok", layout=layout, loss=loss, gradient=gradient, line=faults)


@contextmanager
def _failures_of_plain() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of any class: it is the model's own code
        raise _PlainFailure(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def _saved_again(model: Model, tokens: PreTrainedTokenizerBase, group: Group, folder: Path) -> PreTrainedModel:
    """The checkpoint as a pretrained model, with dropout where it can have some; saved, and opened."""
    try:
        network = base_model(model, tokens, group.labels, 0.1, seed=2)
    except UserError:  # DiffLlama has no dropout
        network = base_model(model, tokens, group.labels, None, seed=2)
    network.save_pretrained(folder)
    return saved_model(folder, trust_remote_code=False)


@torch.no_grad()
def _have_same_loss(one: PreTrainedModel, other: PreTrainedModel, examples: Sequence[TokenizedExample]) -> bool:
    first, second = (sum(_plain_loss(network.eval(), each).item() for each in examples) for network in (one, other))
    return abs(first - second) <= LOSS * second


@torch.no_grad()
def _choose_alike(whole: PreTrainedModel, part: PreTrainedModel, examples: Sequence[TokenizedExample]) -> bool:
    """Whether both find the same tokens likeliest. Some (Cohere) scale the logits of the part only."""
    with _failures_of_plain():
        pairs = [[_plain_logits(each.eval(), example).argmax(-1) for each in (whole, part)] for example in examples]
    return all(torch.equal(*pair) for pair in pairs)


def _scratch(model_type: str, family: Family) -> Model:
    with _failures_of_plain():
        settings = tiny_settings(model_type)
    return scratch_model({"model_type": model_type, **settings}, family=family)


def _model_in(folder: Path, **overrides: Any) -> Model:
    return section(Model, folder=str(folder), architecture="checkpoint", scratch=None, **overrides)


def _whole_model(model_type: str, folder: Path, tokens: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model of random weights that also reads images or sound, saved in the folder."""
    torch.manual_seed(1)
    with _failures_of_plain():
        config = AutoConfig.for_model(model_type, **tiny_settings(model_type))
        for part in (config, getattr(config, "text_config", config)):
            part.vocab_size, part.pad_token_id, part.eos_token_id = len(tokens), 0, 1
        network: PreTrainedModel = transformers.AutoModelForImageTextToText.from_config(config)
    network.save_pretrained(folder)
    return network


def _examples(tokens: PreTrainedTokenizerBase, group: Group) -> list[TokenizedExample]:
    """Of unlike lengths, and two of equal lengths."""
    sources = [*tiny.FACTS[:2], tiny.FACTS[3], "quiet", "; ".join(tiny.FACTS[:2])]
    if group.labels:
        return [
            TokenizedExample("", tokens(source)["input_ids"], [number % len(group.labels)], [], 0)
            for number, source in enumerate(sources)
        ]
    targets = [tiny.text(source) if source in tiny.FACTS else "A boat that is red" for source in sources]
    ids = [[*tokens(target, add_special_tokens=False)["input_ids"], tokens.eos_token_id] for target in targets]
    return [
        TokenizedExample("", tokens(source + "\n")["input_ids"], target, [], 0)
        for source, target in zip(sources, ids, strict=True)
    ]


def _in_our_layout(
    network: PreTrainedModel, examples: Sequence[TokenizedExample], layout: Layout
) -> tuple[float, dict[str, Tensor]]:
    """Summed loss and gradients, as in training without dropout."""
    interface, total = interface_of(network), 0.0
    make = interface.packed_batch if layout == "packed" else interface.training_batch
    network.train()
    network.zero_grad()
    for own in allowed_groups(layout, examples):
        batch = make([examples[index] for index in own], int(network.config.pad_token_id))
        loss = summed_loss(interface, network, batch, 0.0)
        loss.backward()
        total += float(loss)
    return total, _gradients(network)


def _one_at_a_time(network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> tuple[float, dict[str, Tensor]]:
    """The same in plain transformers."""
    network.zero_grad()
    total = 0.0
    for example in examples:
        loss = _plain_loss(network, example)
        loss.backward()
        total += float(loss)
    return total, _gradients(network)


def _plain_loss(network: PreTrainedModel, example: TokenizedExample) -> Tensor:
    return F.cross_entropy(_plain_logits(network, example), torch.tensor(example.target_ids), reduction="sum")


def _plain_logits(network: PreTrainedModel, example: TokenizedExample) -> Tensor:
    """(T, vocabulary) at the target, or (1, labels)."""
    source, target = torch.tensor([example.source_ids]), torch.tensor([example.target_ids])
    if type(network).__name__.endswith("ForSequenceClassification"):
        return torch.as_tensor(network(input_ids=source).logits)
    if network.config.is_encoder_decoder:
        shift: Any = getattr(network, "prepare_decoder_input_ids_from_labels", None)  # not called by FSMT itself
        given = {"labels": target} if shift is None else {"decoder_input_ids": shift(labels=target.clone())}
        return torch.as_tensor(network(input_ids=source, **given, use_cache=False).logits[0])  # FSMT looks ahead else
    whole = torch.cat([source, target], 1)
    return torch.as_tensor(network(input_ids=whole).logits[0, len(example.source_ids) - 1 : -1])


def _gradients(network: PreTrainedModel) -> dict[str, Tensor]:
    plain = unwrap(network).named_parameters()
    return {
        name: weights.grad.double() for name, weights in plain if weights.grad is not None and weights.requires_grad
    }


def _difference(own: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all gradients together, relative to their length."""
    names = own.keys() | expected.keys()
    there = {name: (own.get(name), expected.get(name)) for name in names}
    squares = [
        float(((0 if one is None else one) - (0 if other is None else other)).square().sum())  # type: ignore[union-attr]
        for one, other in there.values()
    ]
    return float((sum(squares) / sum(float(each.square().sum()) for each in expected.values())) ** 0.5)


def _sources(examples: Sequence[TokenizedExample], group: Group) -> list[list[int]]:
    """Of the examples, and one to write for that begins with the first of them."""
    own = [example.source_ids for example in examples]
    return own if group.labels else [*own, own[0] + own[1]]


def _texts(
    network: PreTrainedModel, tokens: PreTrainedTokenizerBase, examples: Sequence[TokenizedExample], group: Group
) -> list[str]:
    prompts = [Prompt(source, str(place)) for place, source in enumerate(_sources(examples, group))]
    labels = [Label(word, [number]) for number, word in enumerate(group.labels)]
    params = section(Predict, strategy="greedy", max_new_tokens=NEW_TOKENS)
    return [decoded.text for decoded in decode(network, tokens, prompts, params, None, None, labels)]


@torch.no_grad()
def _plain_texts(
    network: PreTrainedModel, tokens: PreTrainedTokenizerBase, examples: Sequence[TokenizedExample], group: Group
) -> list[str]:
    network.eval()
    if group.labels:
        names: Any = network.config.id2label
        return [names[int(_plain_logits(network, example).argmax())] for example in examples]
    generate: Any = network.generate
    first = 0 if network.config.is_encoder_decoder else first_position(network)
    texts = []
    for source in _sources(examples, group):
        # `generate` counts the positions of RoBERTa-like models from 0, their own forward pass from a later one
        places = {"position_ids": torch.arange(len(source))[None] + first} if first else {}
        ids = generate(input_ids=torch.tensor([source]), max_new_tokens=NEW_TOKENS, **places)[0].tolist()
        begin = 1 if network.config.is_encoder_decoder else len(source)
        texts.append(str(tokens.decode(ids[begin:], skip_special_tokens=True)).strip())
    return texts


# sizes by the names of settings, wherever a configuration has such a whole number
_SIZES = {
    1: "n_group topk_group n_groups",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers "
    "num_decoder_layers num_key_value_heads num_kv_heads kv_n_heads num_experts_per_tok depth "
    "full_attention_interval layer_group_size",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
    "num_encoder_attention_heads num_decoder_attention_heads num_experts num_local_experts n_routed_experts "
    "mamba_n_heads",
    8: "head_dim d_kv qk_nope_head_dim qk_rope_head_dim v_head_dim sliding_window local_attention window_size "
    "attention_chunk_size hidden_size_per_layer_input rotary_dim",
    16: "embedding_size q_lora_rank kv_lora_rank o_lora_rank moe_intermediate_size mamba_d_head",
    32: "hidden_size d_model n_embd emb_dim dim d_embed dim_model embed_dim",
    64: "intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim n_inner d_inner dim_ff mamba_d_ssm "
    "ffn_hidden_size expert_ffn_hidden_size",
    128: "max_position_embeddings n_positions n_ctx max_seq_len",
    300: "vocab_size_per_layer_input entity_vocab_size",
}
_SIZE_OF = {name: size for size, names in _SIZES.items() for name in names.split()}
_OF_NONE = ("head_dim", "num_key_value_heads")  # some models need them, though their configuration has None
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}  # of time, height and width
# what the sizes above do not fit
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": 4},
    "esmc": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"], "num_experts_per_token": 2}
    | {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    "qwen2_5_vl_text": {"rope_parameters": _ROPE},
    "qwen2_vl_text": {"rope_parameters": _ROPE},
    "qwen3_vl_text": {"rope_parameters": _ROPE},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"],
        **{"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16},
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16]},
    "squeezebert": {"embedding_size": 32},
    "xlstm": {"hidden_size": 128},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["hybrid", "linear_attention", "hybrid"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "mamba_headdim": 16, "n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_settings(model_type: str) -> dict[str, Any]:
    """Of the configuration of a small model."""
    return _tiny(AutoConfig.for_model(model_type)) | _EXCEPTIONS.get(model_type, {})


def _tiny(config: PreTrainedConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            settings[name] = _tiny(value) | _EXCEPTIONS.get(value.model_type, {})
        elif name in _SIZE_OF and (name in _OF_NONE or isinstance(value, int)) and not isinstance(value, bool):
            settings[name] = _SIZE_OF[name]
        elif "jitter" in name and isinstance(value, float):  # random also without dropout
            settings[name] = 0.0
    if "kv_lora_rank" in settings and "num_key_value_heads" in settings:  # latent attention has a key for every head
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    return settings


def _line(row: Row) -> str:
    numbers = [f"{value:.1e}" if value is not None else "" for value in (row.loss, row.gradient)]
    return " | ".join([row.group, row.architecture, row.result, row.layout, *numbers, row.line])


def summary(rows: Sequence[Row]) -> str:
    """The tables of docs/architectures.md: counts, layouts, and lines of those that are not ok."""
    results = get_args(Result)
    lines = [f"| group | {' | '.join(results)} |", f"|---|{'---|' * len(results)}"]
    for group in GROUPS:
        counts = Counter(row.result for row in rows if row.group == group)
        lines.append(f"| {group} | {' | '.join(str(counts[result]) for result in results)} |")
    lines += ["", "| group | layout | architectures |", "|---|---|---|"]
    for group, layout in product(GROUPS, get_args(Layout)):
        if own := [row.architecture for row in rows if (row.group, row.result, row.layout) == (group, "ok", layout)]:
            lines.append(f"| {group} | {layout} | {', '.join(own)} |")
    lines += ["", "| group | architecture | result | line |", "|---|---|---|---|"]
    others = [row for row in rows if row.result != "ok"]
    lines += [f"| {row.group} | {row.architecture} | {row.result} | {row.line.replace('|', '/')} |" for row in others]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
