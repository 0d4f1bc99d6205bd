"""The families: which one a model belongs to, its batches, and its loss on the target, against the textbook way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import excess_tokens, family_of_config
from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.models.attention import SDPA_VARLEN
from stages.lib.models.families import causal, interface_for, interface_of, interface_of_saved
from stages.lib.models.loading import base_model, check_reads_source
from stages.lib.models.losses import example_losses, summed_loss
from stages.lib.params.model import Family
from stages.lib.params.predict import Predict
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample, write_tokenized_examples
from stages.lib.training.fit import fit
from stages.lib.training.selection import make_scorer
from tests import tiny
from tests.build import scratch_model, section
from tests.random_weights import widely_drawn

LABELS = ["bad", "fair", "good"]
SHORT, LONG = TokenizedExample("a", [5], [7, 8, 9, 1], [], 9), TokenizedExample("b", [3, 4, 5], [6, 1], [], 4)


def built(name: str, labels: list[str] | None = None) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    return tokens, tiny.model(tokens, architecture=architecture, labels=labels or [])


def examples_for(tokens: PreTrainedTokenizerBase) -> list[TokenizedExample]:
    return [tiny.example(tokens, source) for source in tiny.FACTS]


@pytest.mark.parametrize(
    ("model_type", "architectures", "family"),
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
def test_a_checkpoints_configuration_gives_its_family(
    model_type: str, architectures: list[str] | None, family: Family
) -> None:
    assert family_of_config(AutoConfig.for_model(model_type, architectures=architectures)) == family


@pytest.mark.parametrize(
    ("model_type", "family", "is_label_task", "name"),
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
def test_an_encoder_is_a_classifier_for_labels_and_a_bert2bert_for_text(
    model_type: str, family: Family | None, is_label_task: bool, name: str
) -> None:
    assert interface_for(AutoConfig.for_model(model_type), family, is_label_task).name == name


@pytest.mark.parametrize(
    ("model_type", "family", "is_label_task", "line"),
    [
        ("distilbert", None, False, "distilbert can't be used as bert2bert: it can choose among labels"),
        ("albert", None, False, "albert can't be used as bert2bert: it can choose among labels"),
        ("gpt2", "seq2seq", False, "gpt2 can't be used as seq2seq: it is no encoder with a decoder"),
        ("vit", None, False, "vit can't be used as causal"),
    ],
)
def test_a_family_that_a_model_cannot_be_is_refused(
    model_type: str, family: Family | None, is_label_task: bool, line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        interface_for(AutoConfig.for_model(model_type), family, is_label_task)


def test_causal_sources_are_padded_on_the_left_and_targets_on_the_right() -> None:
    interface = interface_for(AutoConfig.for_model("gpt2"), None, False)
    batch = interface.training_batch([SHORT, LONG], pad_id=0)
    assert batch["input_ids"].tolist() == [[0, 0, 5, 7, 8, 9], [3, 4, 5, 6, 0, 0]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch["position_ids"][0].tolist() == [0, 0, 0, 1, 2, 3]
    assert batch["labels"].tolist() == [[7, 8, 9, 1], [6, 1, -100, -100]]
    assert interface.prompt_batch([[5], [3, 4]], pad_id=0)["input_ids"].tolist() == [[0, 5], [3, 4]]


@pytest.mark.parametrize("model_type", ["t5", "bert"])
def test_an_encoders_sources_are_padded_on_the_right(model_type: str) -> None:
    interface = interface_for(AutoConfig.for_model(model_type), None, False)
    batch = interface.training_batch([SHORT, LONG], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 0, 0], [3, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[7, 8, 9, 1], [6, 1, -100, -100]]


def causal_logits(network: PreTrainedModel, example: TokenizedExample) -> torch.Tensor:
    logits = network(input_ids=torch.tensor([example.source_ids + example.target_ids])).logits[0, :-1]
    return torch.as_tensor(logits[len(example.source_ids) - 1 :])


def decoder_logits(network: PreTrainedModel, example: TokenizedExample) -> torch.Tensor:
    begin = network.config.decoder_start_token_id
    inputs = torch.tensor([[begin, *example.target_ids[:-1]]])
    return torch.as_tensor(network(input_ids=torch.tensor([example.source_ids]), decoder_input_ids=inputs).logits[0])


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "t5", "bart", "marian", "m2m_100", "bert", "roberta"])
def test_the_loss_of_a_batch_is_the_sum_over_each_example_alone(name: str) -> None:
    """The reference: one unpadded sequence, all logits, shifted by one, without the source; decoders have a start
    token."""
    tokens, network = built(name)
    network.eval()
    examples = examples_for(tokens)
    logits = decoder_logits if network.config.is_encoder_decoder else causal_logits
    expected = sum(
        F.cross_entropy(logits(network, example), torch.tensor(example.target_ids), reduction="sum").item()
        for example in examples
    )
    batch = interface_of(network).training_batch(examples, network.config.pad_token_id)
    assert summed_loss(interface_of(network), network, batch, 0.0).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_a_classifier_is_that_of_transformers() -> None:
    tokens, network = built("bert", LABELS)
    network.eval()
    examples = [
        TokenizedExample(fact, tokens(fact)["input_ids"], [number % 3], [], 4) for number, fact in enumerate(tiny.FACTS)
    ]
    expected = sum(
        network(input_ids=torch.tensor([example.source_ids]), labels=torch.tensor(example.target_ids)).loss.item()
        for example in examples
    )
    batch = interface_of(network).training_batch(examples, network.config.pad_token_id)
    assert summed_loss(interface_of(network), network, batch, 0.0).item() == pytest.approx(expected, rel=1e-5)


def test_masked_positions_have_no_loss_and_are_attended_to() -> None:
    tokens, network = built("gpt2")
    network.eval()
    whole = tiny.example(tokens, tiny.FACTS[0])
    ids = whole.target_ids
    interface, pad = interface_of(network), network.config.pad_token_id
    some = interface.training_batch([whole._replace(masked_positions=[1, 2])], pad)
    assert some["labels"].tolist() == [[ids[0], -100, -100, *ids[3:]]]
    every = interface.training_batch([whole], pad)
    assert torch.equal(interface.target_logits(network, some), interface.target_logits(network, every))


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_the_source_has_no_loss_but_changes_the_logits(name: str) -> None:
    tokens, network = built(name)
    network.eval()
    first, second = (tiny.example(tokens, tiny.FACTS[n]) for n in (0, -1))
    interface, pad = interface_of(network), network.config.pad_token_id
    swapped = first._replace(source_ids=second.source_ids)
    one, other = (interface.training_batch([example], pad) for example in (first, swapped))
    assert torch.equal(one["labels"], other["labels"])
    assert not torch.allclose(interface.target_logits(network, one), interface.target_logits(network, other))


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_losses_of_examples_do_not_depend_on_the_batch_size(name: str, tmp_path: Path) -> None:
    tokens, network = built(name)
    dataset = tiny.dataset(tokens, tmp_path)
    every = range(len(dataset))

    def losses(*limits: int) -> dict[int, tuple[float, int]]:
        return {index: (loss, count) for index, loss, count in example_losses(network, dataset, *limits)}

    one, many, few = losses(1), losses(5), losses(5, 60)
    assert one.keys() == many.keys() == few.keys() == set(every)
    assert all(one[i][0] == pytest.approx(few[i][0], rel=1e-5) for i in every)
    assert all(one[i][0] == pytest.approx(many[i][0], rel=1e-5) for i in every)
    assert [one[i][1] for i in every] == [len(example.target_ids) for example in dataset]


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart", "marian", "bert", "roberta"])
def test_a_saved_network_has_the_same_interface(name: str, tmp_path: Path) -> None:
    for labels in ([], LABELS):
        _, network = built(name, labels)
        network.save_pretrained(tmp_path / str(len(labels)))
        saved: PreTrainedConfig = AutoConfig.from_pretrained(tmp_path / str(len(labels)))
        assert interface_of_saved(saved).name == interface_of(network).name


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_causal_model_never_looks_ahead(name: str) -> None:
    """Nor does an encoder that is used as a causal model."""
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    network = base_model(scratch_model(architecture, family="causal"), tokens, [], 0.0, seed=1).eval()
    logits = [network(input_ids=torch.tensor([[5, 6, 7, last]])).logits[0, :3] for last in (8, 9)]
    assert torch.equal(*logits)


NAMES = list(tiny.ARCHITECTURES)


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_of_generation_are_those_of_training(name: str) -> None:
    """So start tokens, positions and pads are the same in both."""
    tokens, network = built(name)
    interface, pad = interface_of(widely_drawn(network).eval()), network.config.pad_token_id
    network.generation_config.eos_token_id = None  # all texts have the same number of tokens
    sources = [tokens(text)["input_ids"] for text in (*tiny.FACTS, "quiet", "thing: cup", "; ".join(tiny.FACTS[:2]))]
    generate: Any = network.generate
    generated = generate(
        **interface.prompt_batch(sources, pad), max_new_tokens=8, output_logits=True, return_dict_in_generate=True
    )
    targets = generated.sequences[:, -8:].tolist()
    examples = [TokenizedExample("", *ids, [], 0) for ids in zip(sources, targets, strict=True)]
    with torch.no_grad():
        logits = interface.target_logits(network, interface.training_batch(examples, pad))
    assert torch.allclose(logits, torch.stack(generated.logits, 1), rtol=1e-3, atol=1e-3)
    prompts = [Prompt(source, "") for source in sources]
    decoded = decode(network, tokens, prompts, section(Predict, max_new_tokens=8), 150, title=None)
    texts = [text.text for text in decoded]
    assert texts == [str(tokens.decode(ids, skip_special_tokens=True)).strip() for ids in targets]
    assert len(set(texts)) > 1 or name == "marian"  # whose fixed positions outweigh its tokens


@pytest.mark.parametrize("name", ["gpt2", "t5", "m2m_100", "bert"])
def test_a_network_is_scored_by_the_texts_that_it_generates(name: str, tmp_path: Path) -> None:
    tokens, network = built(name)
    interface, pad = interface_of(widely_drawn(network).eval()), network.config.pad_token_id
    network.generation_config.eos_token_id = None
    sources = [tokens(text)["input_ids"] for text in (*tiny.FACTS, "quiet", "thing: cup", "; ".join(tiny.FACTS[:2]))]
    generate: Any = network.generate
    own = generate(**interface.prompt_batch(sources, pad), max_new_tokens=8)[:, -8:].tolist()
    settings = tiny.settings(metric_for_best_model="exact_match")
    for folder, targets in (("own", own), ("others", [*own[1:], own[0]])):
        rows = [TokenizedExample(str(n), *ids, [], 0) for n, ids in enumerate(zip(sources, targets, strict=True))]
        write_tokenized_examples(tmp_path / folder, [rows])
        scorer = make_scorer(settings, tokens, [], TokenizedDataset(tmp_path / folder), 5)
        assert scorer is not None
        assert (scorer(network) == 100) == (folder == "own")


@pytest.mark.parametrize("name", ["gpt2", "t5", "m2m_100", "bert"])
def test_training_lowers_the_loss_of_every_family(name: str, tmp_path: Path) -> None:
    tokens, network = built(name)
    data = tiny.dataset(tokens, tmp_path / "dataset")
    before = sum(loss for _, loss, _ in example_losses(network, data, 12)) / data.target_tokens()
    settings = tiny.settings(epochs=2, learning_rate=0.002, evals_per_run=1)
    curve = fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", "test")
    assert curve.best()[1] < before


@pytest.mark.parametrize(("name", "positions"), [("bert", 16), ("roberta", 18)])
def test_the_longest_source_that_fits_is_computed_and_a_longer_one_fails(name: str, positions: int) -> None:
    architecture = tiny.ARCHITECTURES[name][0] | {"max_position_embeddings": positions}
    tokens = tiny.tokenizer("encoder")
    network = tiny.model(tokens, architecture=architecture, labels=LABELS).eval()
    interface = interface_of(network)
    longest = -excess_tokens(interface.name, network.config, np.array([0]), np.array([1]))

    def run(length: int) -> None:
        example = TokenizedExample("", [6] * length, [0], [], 0)
        interface.target_logits(network, interface.training_batch([example], network.config.pad_token_id))

    run(longest)
    with pytest.raises((IndexError, RuntimeError)):
        run(longest + 1)


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_a_model_that_does_not_read_its_source_is_refused_before_training(name: str, tmp_path: Path) -> None:
    """A wrongly wired bert2bert has the same output for every input."""
    tokens, network = built(name)
    dataset = tiny.dataset(tokens, tmp_path)
    check_reads_source(network, dataset)
    with torch.no_grad():
        embeddings: Any = network.get_input_embeddings()
        embeddings.weight.copy_(embeddings.weight[:1].expand_as(embeddings.weight))  # all tokens look the same
        if name == "gpt2":
            network.get_parameter("transformer.wpe.weight").zero_()
    with pytest.raises(UserError, match="does not depend on its input"):
        check_reads_source(network, dataset)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_packed_examples_have_the_losses_and_gradients_of_padded_ones(name: str, tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    network = tiny.model(tokens, architecture=tiny.ARCHITECTURES[name][0], dropout=0.0)
    examples = [*tiny.dataset(tokens, tmp_path), TokenizedExample("talk", [5, 6], [7, 8, 9, 10], [1, 2], 0)]
    packed = causal.INTERFACE.packed_batch(examples, 0)
    segments = packed | {"segment_sizes": torch.tensor([3, 1, len(examples) - 4])}
    results = []
    # padded; packed: with transformers' mask over the whole row, with one segment of attention, with three segments
    for attention, batch in (
        ("sdpa", causal.INTERFACE.training_batch(examples, 0)),
        ("sdpa", packed),
        (SDPA_VARLEN, packed),
        (SDPA_VARLEN, segments),
    ):
        network.set_attn_implementation(attention)
        network.zero_grad(set_to_none=True)
        loss = summed_loss(causal.INTERFACE, network, batch, 0.1)
        loss.backward()
        results.append((loss.item(), [weights.grad for weights in network.parameters()]))
    (padded, gradients), *others = results
    for loss_packed, same in others:
        assert loss_packed == pytest.approx(padded, rel=1e-5)
        for one, other in zip(gradients, same, strict=True):
            assert one is not None
            assert other is not None
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
