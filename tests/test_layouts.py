"""Layouts of batches: the one that is chosen computes what plain transformers computes of each example alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.models.families import interface_of
from stages.lib.models.layouts import Layout, allowed_groups, check_causal, choose_layout
from stages.lib.models.loading import base_model
from stages.lib.models.losses import example_losses, summed_loss
from stages.lib.params.model import Family
from stages.lib.params.predict import Predict
from stages.lib.records.tokenized_examples import Label, TokenizedDataset, TokenizedExample, write_tokenized_examples
from stages.lib.training.kernels import use_kernels
from tests import tiny
from tests.build import scratch_model, section
from tests.random_weights import widely_drawn

Architecture = dict[str, Any]

NARROW = {"hidden_size": 32, "intermediate_size": 64}
TWO_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
RWKV = {"model_type": "rwkv", "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}
MINIMAX = {"model_type": "minimax", **NARROW, **TWO_LAYERS, "head_dim": 8, "num_local_experts": 2}
RECURRENT_GEMMA = {"model_type": "recurrent_gemma", **NARROW, **TWO_LAYERS, "num_hidden_layers": 3, "lru_width": 32}
DOGE = {"model_type": "doge", **NARROW, **TWO_LAYERS}
GPT_NEO = {"model_type": "gpt_neo", "hidden_size": 32, "num_layers": 2, "attention_types": [[["global", "local"], 1]]}
FNET = {"model_type": "fnet", **NARROW, "num_hidden_layers": 2}
CAUSAL: list[tuple[Architecture, Layout]] = [
    (tiny.ARCHITECTURE, "packed"),
    (tiny.ARCHITECTURES["llama"][0], "packed"),
    ({"model_type": "qwen3", **NARROW, **TWO_LAYERS}, "packed"),
    ({"model_type": "ctrl", "n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 2}, "packed"),
    (tiny.ARCHITECTURES["roberta"][0], "packed"),  # its positions begin after the id of the pad
    ({"model_type": "mistral", **NARROW, **TWO_LAYERS, "sliding_window": 4}, "padded"),
    (tiny.ARCHITECTURES["bloom"][0], "padded"),  # positions are a bias of attention
    ({"model_type": "bert-generation", **NARROW, "num_hidden_layers": 2, "num_attention_heads": 4}, "packed"),
    (GPT_NEO, "padded"),  # without SDPA
    (DOGE, "padded"),  # it makes a mask of its own
    # a state, and a convolution, from token to token, which pads don't change
    ({"model_type": "jamba", **NARROW, **TWO_LAYERS, "attn_layer_period": 2, "attn_layer_offset": 1}, "padded"),
    ({"model_type": "lfm2", **NARROW, **TWO_LAYERS, "layer_types": ["conv", "full_attention"]}, "padded"),
    # pads change the state
    (RWKV, "unpadded"),
    (RECURRENT_GEMMA, "unpadded"),
]


def causal(architecture: Architecture) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    family: Family = "encoder" if architecture["model_type"] in ("bert", "roberta") else "causal"
    tokens = tiny.tokenizer(family)
    return tokens, base_model(scratch_model(architecture, family="causal"), tokens, [], 0.0, seed=1)


def examples_of(tokens: PreTrainedTokenizerBase) -> list[TokenizedExample]:
    """Sources of one token, of many, and some of equal lengths."""
    facts = [tiny.example(tokens, fact) for fact in tiny.FACTS]
    return [
        *facts[:4],
        TokenizedExample("", [5], [7, 8, 9], [], 0),
        TokenizedExample("", facts[0].source_ids * 2, [6], [], 0),
    ]


def gradients(network: nn.Module, loss: Tensor) -> Tensor:
    weights = [each for each in network.parameters() if each.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(w).flatten() if g is None else g.flatten() for w, g in zip(weights, found, strict=True)]
    )


def ids_of(value: Any) -> str:
    return value["model_type"] if isinstance(value, dict) else ""


@pytest.mark.parametrize(("architecture", "layout"), CAUSAL, ids=ids_of)
def test_losses_and_gradients_of_the_chosen_layout_are_those_of_plain_transformers(
    architecture: Architecture, layout: Layout
) -> None:
    tokens, network = causal(architecture)
    examples, interface, pad = examples_of(tokens), interface_of(network), int(network.config.pad_token_id)
    network.eval()

    def alone(example: TokenizedExample) -> Tensor:
        ids = torch.tensor([example.source_ids + example.target_ids])
        labels = torch.tensor([[-100] * len(example.source_ids) + example.target_ids])
        return network(input_ids=ids, labels=labels, use_cache=False).loss * len(example.target_ids)

    expected = torch.stack([alone(example) for example in examples]).sum()
    expected_gradients = gradients(network, expected)
    use_kernels(network, tiny.settings())
    check_causal(network, examples)
    assert choose_layout(network, examples) == layout
    make = interface.packed_batch if layout == "packed" else interface.training_batch
    batches = [make([examples[index] for index in group], pad) for group in allowed_groups(layout, examples)]
    loss = torch.stack([summed_loss(interface, network, batch, 0.0) for batch in batches]).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-5)
    difference = (gradients(network, loss) - expected_gradients).norm()
    assert difference <= 2e-3 * expected_gradients.norm()


def test_checks_compute_forward_and_backward_in_float32_whatever_the_precision_of_training() -> None:
    tokens, network = causal(tiny.ARCHITECTURE)
    rounded = list[bool]()
    for layer in network.modules():
        layer.register_forward_hook(lambda *_: rounded.append(torch.is_autocast_enabled("cpu")))
        layer.register_full_backward_hook(lambda *_: rounded.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):  # also where training would refuse it, as emulated
        check_causal(network, examples_of(tokens))
        choose_layout(network, examples_of(tokens))
    assert rounded
    assert not any(rounded)


@pytest.mark.parametrize(
    ("architecture", "family", "layout"),
    [
        (*tiny.ARCHITECTURES["t5"], "padded"),
        (*tiny.ARCHITECTURES["bart"], "padded"),
        (*tiny.ARCHITECTURES["bert"], "padded"),
        (FNET, "encoder", "unpadded"),  # it mixes all tokens of a row, pads too
    ],
    ids=ids_of,
)
def test_models_with_an_encoder_have_layouts_too(architecture: Architecture, family: Family, layout: Layout) -> None:
    tokens = tiny.tokenizer(family)
    labels = ["bad", "good"] if architecture["model_type"] in ("bert", "fnet") else []
    network = tiny.model(tokens, architecture=architecture, labels=labels)
    targets = [[number % 2] if labels else [7, 8, 9][: number + 1] for number in range(3)]
    examples = [TokenizedExample("", [5, *[6] * n, 2, 1], ids, [], 0) for n, ids in enumerate(targets)]
    assert choose_layout(network, examples, pack=False) == layout


def test_unpadded_groups_have_equal_lengths_and_single_ones_one_example() -> None:
    lengths = [(2, 3), (4, 1), (2, 3), (3, 2)]
    examples = [TokenizedExample("", [5] * source, [6] * target, [], 0) for source, target in lengths]
    assert allowed_groups("unpadded", examples) == [[0, 2], [1], [3]]
    assert allowed_groups("single", examples) == [[0], [1], [2], [3]]
    assert allowed_groups("padded", examples) == allowed_groups("packed", examples) == [[0, 1, 2, 3]]


def test_packing_can_be_ruled_out() -> None:
    tokens, network = causal(tiny.ARCHITECTURE)
    use_kernels(network, tiny.settings())
    assert choose_layout(network, examples_of(tokens), pack=False) == "padded"


def test_the_check_leaves_weights_as_they_were() -> None:
    tokens, network = causal(tiny.ARCHITECTURE)
    network.get_input_embeddings().requires_grad_(False)
    use_kernels(network, tiny.settings())
    assert choose_layout(network, examples_of(tokens)) == "packed"
    assert all(weights.grad is None for weights in network.parameters())
    assert not any(weights.requires_grad for weights in network.get_input_embeddings().parameters())


def test_examples_of_equal_lengths_show_it_too() -> None:
    """Those of validation may differ."""
    _, network = causal(RWKV)
    examples = [TokenizedExample("", [number, 6, 7, 8], [9, 10], [], 0) for number in range(5, 9)]
    assert choose_layout(network, examples) == "unpadded"


def test_evaluation_changes_no_weights() -> None:
    """RWKV's own evaluation rescales some, and a saved model would have them."""
    tokens, network = causal(RWKV | {"rescale_every": 1})
    before = {name: weights.clone() for name, weights in network.named_parameters()}
    choose_layout(network, examples_of(tokens))
    assert all(torch.equal(weights, before[name]) for name, weights in network.named_parameters())


class Noise(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return states + torch.rand_like(states)


def test_a_model_that_draws_at_random_is_refused() -> None:
    tokens, network = causal(tiny.ARCHITECTURE)
    network.get_submodule("transformer").register_module("drop", Noise())
    with pytest.raises(UserError, match="GPT2LMHeadModel computes the same example differently from call to call"):
        choose_layout(network, examples_of(tokens))


def test_a_model_that_fails_is_refused_in_one_line() -> None:
    tokens, network = causal(tiny.ARCHITECTURE)
    network.get_submodule("transformer").register_module("wpe", nn.Embedding(2, 32))
    with pytest.raises(UserError, match="can't compute an example of these data alone"):
        choose_layout(network, examples_of(tokens))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ({"model_type": "xlm", "emb_dim": 32, "n_layers": 2, "n_heads": 2}, "XLMWithLMHeadModel"),
        ({"model_type": "xlnet", "d_model": 32, "d_inner": 64, "n_layer": 2, "n_head": 2}, "XLNetLMHeadModel"),
    ],
    ids=ids_of,
)
def test_a_model_that_looks_ahead_is_refused(architecture: Architecture, name: str) -> None:
    tokens, network = causal(architecture)
    with pytest.raises(UserError, match=f"{name} sees the tokens that it must predict"):
        check_causal(network, examples_of(tokens))


@pytest.mark.parametrize(
    "architecture",
    [RWKV, RECURRENT_GEMMA, MINIMAX, tiny.ARCHITECTURES["roberta"][0], tiny.ARCHITECTURES["bloom"][0]],
    ids=ids_of,
)
def test_texts_of_a_batch_are_those_of_a_plain_loop(architecture: Architecture) -> None:
    """Where pads change a state, or positions don't begin at 0, too."""
    tokens, network = causal(architecture)
    widely_drawn(network).eval()
    network.generation_config.eos_token_id = None
    sources = [tokens(text)["input_ids"] for text in ("quiet", "thing: cup", "thing: hat", *tiny.FACTS[:3])]

    @torch.no_grad()
    def plain(source: list[int]) -> str:
        ids = list(source)
        for _ in range(6):
            logits = network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            logits[tokens.pad_token_id] = -torch.inf
            ids.append(int(logits.argmax()))
        return str(tokens.decode(ids[len(source) :], skip_special_tokens=True)).strip()

    prompts = [Prompt(source, "") for source in sources]
    decoded = decode(network, tokens, prompts, section(Predict, max_new_tokens=6), batch_tokens=80, title=None)
    assert [text.text for text in decoded] == [plain(source) for source in sources]


def test_losses_of_examples_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Those of predict, and of the comparison with the saved model."""
    tokens, network = causal(RWKV)
    write_tokenized_examples(tmp_path, [examples_of(tokens)])
    dataset = TokenizedDataset(tmp_path)
    alone, together = ({index: loss for index, loss, _ in example_losses(network, dataset, size)} for size in (1, 6))
    assert together == pytest.approx(alone, rel=1e-6)


def test_labels_do_not_depend_on_the_batch() -> None:
    tokens, network = causal(RWKV)
    widely_drawn(network)
    labels = [Label("one", [7]), Label("two", [8, 9]), Label("three", [10])]
    prompts = [Prompt([5, *range(6, 6 + length)], "") for length in (1, 3, 3, 9, 12)]
    together, alone = (decode(network, tokens, prompts, section(Predict), size, None, labels) for size in (50, 1))
    assert [found.text for found in together] == [found.text for found in alone]
    assert [found.log_probability for found in together] == pytest.approx([found.log_probability for found in alone])


def test_what_a_model_cannot_generate_is_said_in_one_line() -> None:
    tokens, network = causal(RWKV)
    with pytest.raises(UserError, match="predict: RwkvForCausalLM can't generate so: RwkvForCausalLM cannot use beam"):
        decode(network, tokens, [Prompt([5, 6], "")], section(Predict, max_new_tokens=2, strategy="beam"), 1, None)
