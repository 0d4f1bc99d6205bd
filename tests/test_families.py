"""The families: what a model belongs to, its batches, and a loss on the target alone, against the textbook way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.attention import PAIRS_APART
from stages.lib.decoding import Decoded, decode
from stages.lib.families import causal, family_for, family_of, family_of_saved, kind_of
from stages.lib.fitting import fit
from stages.lib.judging import judge_of
from stages.lib.kernels import use_attention
from stages.lib.losses import pair_losses, summed_loss
from stages.lib.models import base_model, check_reads_source
from stages.lib.pairs import Pair, Pairs, write_pairs
from stages.lib.params.model import Kind
from stages.lib.params.predict import Predict
from stages.lib.process import UserError
from tests import tiny
from tests.build import scratch_model, section

LABELS = ["bad", "fair", "good"]
SHORT, LONG = Pair("a", [5], [7, 8, 9, 1], [], 9), Pair("b", [3, 4, 5], [6, 1], [], 4)


def built(name: str, labels: list[str] | None = None) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    architecture, kind = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(kind)
    return tokens, tiny.model(tokens, architecture=architecture, labels=labels or [])


def pairs_for(tokens: PreTrainedTokenizerBase) -> list[Pair]:
    return [tiny.pair(tokens, source) for source in tiny.FACTS]


@pytest.mark.parametrize(
    ("model_type", "architectures", "kind"),
    [
        ("gpt2", ["GPT2LMHeadModel"], "causal"),
        ("gpt_neo", ["GPTNeoForCausalLM"], "causal"),
        ("llama", ["LlamaForCausalLM"], "causal"),
        ("qwen3", ["Qwen3ForCausalLM"], "causal"),
        ("llama", None, "causal"),
        ("t5", ["T5ForConditionalGeneration"], "seq2seq"),
        ("bart", ["BartForConditionalGeneration"], "seq2seq"),
        ("marian", ["MarianMTModel"], "seq2seq"),
        ("mbart", ["MBartForConditionalGeneration"], "seq2seq"),
        ("bert", ["BertForMaskedLM"], "encoder"),
        ("bert", None, "encoder"),
        ("bert", ["BertLMHeadModel"], "causal"),
        ("roberta", ["RobertaForMaskedLM"], "encoder"),
        ("albert", ["AlbertForMaskedLM"], "encoder"),
        ("distilbert", ["DistilBertForMaskedLM"], "encoder"),
        ("electra", ["ElectraForPreTraining"], "encoder"),
    ],
)
def test_a_checkpoint_says_what_it_was_made_for(model_type: str, architectures: list[str] | None, kind: Kind) -> None:
    assert kind_of(AutoConfig.for_model(model_type, architectures=architectures)) == kind


@pytest.mark.parametrize(
    ("model_type", "kind", "is_label_task", "name"),
    [
        ("bert", None, False, "bert2bert"),
        ("bert", None, True, "classifier"),
        ("distilbert", None, True, "classifier"),
        ("gpt2", None, True, "causal"),
        ("t5", None, True, "seq2seq"),
        ("bert", "causal", False, "causal"),
        ("gpt2", "encoder", True, "classifier"),
    ],
)
def test_an_encoder_chooses_labels_with_a_head_and_writes_with_a_decoder(
    model_type: str, kind: Kind | None, is_label_task: bool, name: str
) -> None:
    assert family_for(AutoConfig.for_model(model_type), kind, is_label_task).name == name


@pytest.mark.parametrize(
    ("model_type", "kind", "is_label_task", "line"),
    [
        ("distilbert", None, False, "distilbert can't be used as bert2bert: it can choose among labels"),
        ("albert", None, False, "albert can't be used as bert2bert: it can choose among labels"),
        ("gpt2", "seq2seq", False, "gpt2 can't be used as seq2seq: it is no encoder with a decoder"),
        ("vit", None, False, "vit can't be used as causal"),
    ],
)
def test_a_use_that_a_model_is_not_fit_for_is_refused(
    model_type: str, kind: Kind | None, is_label_task: bool, line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        family_for(AutoConfig.for_model(model_type), kind, is_label_task)


def test_causal_sources_are_padded_on_the_left_and_targets_on_the_right() -> None:
    family = family_for(AutoConfig.for_model("gpt2"), None, False)
    batch = family.training_batch([SHORT, LONG], pad_id=0)
    assert batch["input_ids"].tolist() == [[0, 0, 5, 7, 8, 9], [3, 4, 5, 6, 0, 0]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch["position_ids"][0].tolist() == [0, 0, 0, 1, 2, 3]
    assert batch["labels"].tolist() == [[7, 8, 9, 1], [6, 1, -100, -100]]
    assert family.prompt_batch([[5], [3, 4]], pad_id=0)["input_ids"].tolist() == [[0, 5], [3, 4]]


@pytest.mark.parametrize("model_type", ["t5", "bert"])
def test_an_encoders_sources_are_padded_on_the_right(model_type: str) -> None:
    family = family_for(AutoConfig.for_model(model_type), None, False)
    batch = family.training_batch([SHORT, LONG], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 0, 0], [3, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[7, 8, 9, 1], [6, 1, -100, -100]]


def causal_logits(network: PreTrainedModel, pair: Pair) -> torch.Tensor:
    logits = network(input_ids=torch.tensor([pair.source_ids + pair.target_ids])).logits[0, :-1]
    return torch.as_tensor(logits[len(pair.source_ids) - 1 :])


def decoder_logits(network: PreTrainedModel, pair: Pair) -> torch.Tensor:
    begin = network.config.decoder_start_token_id
    inputs = torch.tensor([[begin, *pair.target_ids[:-1]]])
    return torch.as_tensor(network(input_ids=torch.tensor([pair.source_ids]), decoder_input_ids=inputs).logits[0])


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "t5", "bart", "marian", "m2m_100", "bert", "roberta"])
def test_the_loss_of_a_batch_is_that_of_each_pair_alone_on_its_target(name: str) -> None:
    """One unpadded sequence, all logits, shifted by one, the source masked out; for decoders behind their start."""
    tokens, network = built(name)
    network.eval()
    pairs = pairs_for(tokens)
    logits = decoder_logits if network.config.is_encoder_decoder else causal_logits
    expected = sum(
        F.cross_entropy(logits(network, pair), torch.tensor(pair.target_ids), reduction="sum").item() for pair in pairs
    )
    batch = family_of(network).training_batch(pairs, network.config.pad_token_id)
    assert summed_loss(family_of(network), network, batch, 0.0).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_a_classifier_is_that_of_its_head() -> None:
    tokens, network = built("bert", LABELS)
    network.eval()
    pairs = [Pair(fact, tokens(fact)["input_ids"], [number % 3], [], 4) for number, fact in enumerate(tiny.FACTS)]
    expected = sum(
        network(input_ids=torch.tensor([pair.source_ids]), labels=torch.tensor(pair.target_ids)).loss.item()
        for pair in pairs
    )
    batch = family_of(network).training_batch(pairs, network.config.pad_token_id)
    assert summed_loss(family_of(network), network, batch, 0.0).item() == pytest.approx(expected, rel=1e-5)


def test_what_others_say_between_two_answers_carries_no_loss_and_is_seen() -> None:
    tokens, network = built("gpt2")
    network.eval()
    whole = tiny.pair(tokens, tiny.FACTS[0])
    ids = whole.target_ids
    family, pad = family_of(network), network.config.pad_token_id
    some = family.training_batch([whole._replace(only_read=[1, 2])], pad)
    assert some["labels"].tolist() == [[ids[0], -100, -100, *ids[3:]]]
    every = family.training_batch([whole], pad)
    assert torch.equal(family.target_logits(network, some), family.target_logits(network, every))


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_the_source_carries_no_loss_but_steers_it(name: str) -> None:
    tokens, network = built(name)
    network.eval()
    first, second = (tiny.pair(tokens, tiny.FACTS[n]) for n in (0, -1))
    family, pad = family_of(network), network.config.pad_token_id
    swapped = first._replace(source_ids=second.source_ids)
    one, other = (family.training_batch([pair], pad) for pair in (first, swapped))
    assert torch.equal(one["labels"], other["labels"])
    assert not torch.allclose(family.target_logits(network, one), family.target_logits(network, other))


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_losses_of_pairs_do_not_depend_on_the_batch_size(name: str, tmp_path: Path) -> None:
    tokens, network = built(name)
    write_pairs(tmp_path / "pairs", [pairs_for(tokens)])
    pairs = Pairs(tmp_path / "pairs")
    every = range(len(pairs))

    def losses(size: int, *share: int) -> dict[int, tuple[float, int]]:
        return {index: (loss, count) for index, loss, count in pair_losses(network, pairs, size, None, *share)}

    one, many, shares = losses(1), losses(5), [losses(2, rank, 3) for rank in range(3)]
    assert one.keys() == many.keys() == set(every)
    assert sorted(index for share in shares for index in share) == list(every)
    assert all(one[i][0] == pytest.approx(own[0], rel=1e-5) for share in shares for i, own in share.items())
    assert all(one[i][0] == pytest.approx(many[i][0], rel=1e-5) for i in every)
    assert [one[i][1] for i in every] == [len(pair.target_ids) for pair in pairs]


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart", "marian", "bert", "roberta"])
def test_a_saved_network_is_of_the_family_that_it_was_of(name: str, tmp_path: Path) -> None:
    for labels in ([], LABELS):
        _, network = built(name, labels)
        network.save_pretrained(tmp_path / str(len(labels)))
        saved: PreTrainedConfig = AutoConfig.from_pretrained(tmp_path / str(len(labels)))
        assert family_of_saved(saved).name == family_of(network).name


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_causal_model_never_looks_ahead(name: str) -> None:
    """Nor does an encoder that is used as one, though BERT would, left as it is."""
    architecture, kind = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(kind)
    network = base_model(scratch_model(architecture, family="causal"), tokens, [], 0.0, seed=1).eval()
    logits = [network(input_ids=torch.tensor([[5, 6, 7, last]])).logits[0, :3] for last in (8, 9)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("name", ["gpt2", "t5", "m2m_100", "bert"])
def test_every_family_says_what_it_has_learned_and_is_judged_by_it(name: str, tmp_path: Path) -> None:
    architecture, kind = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(kind)
    network, data = tiny.model(tokens, architecture=architecture, dropout=0.0), tiny.pairs(tokens, tmp_path / "pairs")
    long = {"epochs": 300, "learning_rate": 0.005, "warmup_fraction": 0.1, "validations": 3}
    settings = tiny.settings(choose_by="exact_match", **long)
    judge = judge_of(settings, tokens, [], data, 4)
    curve = fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", "test", judge)
    assert curve.best()[1] == 100
    sources = [pair.source_ids for pair in data]
    texts = decode(network, tokens, sources, section(Predict, max_new_tokens=40), 4, title="test")
    assert texts == [Decoded(tiny.text(source), "end") for source in tiny.FACTS]


def position_of(name: str) -> Mapping[str, Any]:
    return {"bert": {"max_position_embeddings": 16}, "roberta": {"max_position_embeddings": 18}}[name]


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_positions_are_counted_as_the_model_does(name: str) -> None:
    """The longest that fits goes through, one more is said to be too long, and would crash."""
    architecture = {**tiny.ARCHITECTURES[name][0], **position_of(name)}
    tokens = tiny.tokenizer("encoder")
    network = tiny.model(tokens, architecture=architecture, labels=LABELS).eval()
    family = family_of(network)
    longest = -family.excess(network.config, torch.tensor([0]).numpy(), torch.tensor([1]).numpy())

    def run(length: int) -> None:
        pair = Pair("", [6] * length, [0], [], 0)
        family.target_logits(network, family.training_batch([pair], network.config.pad_token_id))

    run(longest)
    with pytest.raises((IndexError, RuntimeError)):
        run(longest + 1)


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_a_model_that_does_not_read_its_source_is_refused_before_training(name: str, tmp_path: Path) -> None:
    """What a wrongly wired bert2bert does: the same output for every input."""
    tokens, network = built(name)
    write_pairs(tmp_path / "pairs", [pairs_for(tokens)])
    check_reads_source(network, Pairs(tmp_path / "pairs"))
    with torch.no_grad():
        embeddings: Any = network.get_input_embeddings()
        embeddings.weight.copy_(embeddings.weight[:1].expand_as(embeddings.weight))  # all tokens look the same
        if name == "gpt2":
            network.get_parameter("transformer.wpe.weight").zero_()
    with pytest.raises(UserError, match="does not depend on its input"):
        check_reads_source(network, Pairs(tmp_path / "pairs"))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_pairs_end_to_end_have_the_losses_and_gradients_of_pairs_apart(name: str, tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    network = tiny.model(tokens, architecture=tiny.ARCHITECTURES[name][0], dropout=0.0)
    pairs = [*tiny.pairs(tokens, tmp_path), Pair("talk", [5, 6], [7, 8, 9, 10], [1, 2], 0)]
    flat = causal.FAMILY.flat_batch(pairs, 0)
    tables = causal.joined([causal.FAMILY.flat_batch(own, 0) for own in (pairs[:3], pairs[3:4], pairs[4:])])
    results = []
    # pairs apart; end to end by transformers' mask over the whole row, by one table of attention, and by three
    for attention, batch in (
        ("sdpa", causal.FAMILY.training_batch(pairs, 0)),
        ("sdpa", flat),
        (PAIRS_APART, flat),
        (PAIRS_APART, tables),
    ):
        network.set_attn_implementation(attention)
        network.zero_grad(set_to_none=True)
        loss = summed_loss(causal.FAMILY, network, batch, 0.1)
        loss.backward()
        results.append((loss.item(), [weights.grad for weights in network.parameters()]))
    (apart, gradients), *others = results
    for together, same in others:
        assert together == pytest.approx(apart, rel=1e-5)
        for one, other in zip(gradients, same, strict=True):
            assert one is not None
            assert other is not None
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


LLAMA, NARROW = tiny.ARCHITECTURES["llama"][0], {"hidden_size": 32, "intermediate_size": 64}
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("architecture", "is_flat"),
    [
        (tiny.ARCHITECTURE, True),
        (LLAMA, True),
        ({"model_type": "qwen3", **NARROW, **HEADS}, True),
        ({"model_type": "mistral", **NARROW, **HEADS, "sliding_window": None}, True),
        ({"model_type": "mistral", **NARROW, **HEADS, "sliding_window": 4}, False),
        (tiny.ARCHITECTURES["bloom"][0], False),  # positions by attention's bias
        (
            {
                "model_type": "gpt_neo",
                "hidden_size": 32,
                "num_layers": 2,
                "attention_types": [[["global", "local"], 1]],
            },
            False,
        ),  # no SDPA
        # a state, and a convolution, that go on from token to token
        ({"model_type": "jamba", **NARROW, **HEADS, "attn_layer_period": 2, "attn_layer_offset": 1}, False),
        ({"model_type": "lfm2", **NARROW, **HEADS, "layer_types": ["conv", "full_attention"]}, False),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_pairs_are_put_end_to_end_only_where_each_is_computed_as_alone(
    architecture: dict[str, Any], is_flat: bool, tmp_path: Path
) -> None:
    tokens = tiny.tokenizer()
    network = tiny.model(tokens, architecture=architecture)
    use_attention(network, tiny.settings())
    assert causal.FAMILY.lies_flat(network, list(tiny.pairs(tokens, tmp_path))[:2]) == is_flat
