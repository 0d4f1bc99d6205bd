"""Losses of examples: as exact as float64, in batches whose logits and whose work fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.models import losses
from stages.lib.models.families import causal
from stages.lib.models.families.causal import Causal
from stages.lib.models.losses import ExampleLosses, example_losses, losses_of, summed_loss, summed_losses
from stages.lib.models.memory import Halving, OutOfMemory
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample, write_tokenized_examples
from stages.lib.training.kernels import use_attention
from tests import tiny
from tests.random_weights import widely_drawn

CPU_HAS_NO_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate")


def reference_loss(logits: torch.Tensor, example: TokenizedExample) -> float:
    """Token by token in float64, from the definition."""
    scores = logits.double()
    places = [place for place in range(len(example.target_ids)) if place not in example.masked_positions]
    tokens = [(place, example.target_ids[place]) for place in places]
    return sum(float(scores[place].exp().sum().log() - scores[place, token]) for place, token in tokens)


@pytest.mark.parametrize("chunk_bytes", [1, 32 << 20])
def test_losses_are_those_of_float64(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    """Also where a model is almost sure, so that each loss is far below the logits."""
    monkeypatch.setattr(losses, "_CHUNK_BYTES", chunk_bytes)
    examples = [TokenizedExample(str(n), [3], [5 + n, 7, 8, 1], [1] if n % 2 else [], 0) for n in range(6)]
    logits = 30 * torch.randn(6, 4, 500, generator=torch.Generator().manual_seed(1))
    for row, example in zip(logits, examples, strict=True):
        row[range(4), example.target_ids] = row.max(1).values + 2
    monkeypatch.setattr(Causal, "target_logits", lambda *_: logits)
    found, tokens = losses_of(tiny.model(tiny.tokenizer()), examples)
    expected = [reference_loss(*pair) for pair in zip(logits, examples, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    assert tokens.tolist() == [4, 3] * 3


def test_a_batch_has_the_losses_of_its_examples_in_any_layout(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    network = widely_drawn(tiny.model(tokens))
    use_attention(network, tiny.settings())
    examples, interface = list(tiny.dataset(tokens, tmp_path)), causal.INTERFACE
    expected = [float(own.sum()) for own in losses_of(network, examples)]
    for make in (interface.training_batch, interface.packed_batch):
        found = [float(own) for own in summed_losses(interface, network, make(examples, 0))]
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_token_counts_by_its_weight(tmp_path: Path, smoothing: float) -> None:
    """As if the examples with weight 2 were in the batch twice; also where labels are ignored."""
    tokens = tiny.tokenizer()
    network, interface = widely_drawn(tiny.model(tokens)).eval(), causal.INTERFACE
    once, twice = list(tiny.dataset(tokens, tmp_path))[:2]
    once = once._replace(masked_positions=[0])
    batch = interface.training_batch([once, twice], 0)
    weights = torch.tensor([[1.0], [2.0]]).expand(batch["labels"].shape)
    found = summed_loss(interface, network, batch | {"weights": weights}, smoothing)
    repeated = summed_loss(interface, network, interface.training_batch([once, twice, twice], 0), smoothing)
    assert found.item() == pytest.approx(repeated.item(), rel=1e-5)


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Target tokens of the examples of each batch whose losses were computed."""
    batches: list[list[int]] = []
    compute = losses.losses_of

    def recorded(network: Any, examples: Sequence[TokenizedExample]) -> Any:
        batches.append([len(example.target_ids) for example in examples])
        return compute(network, examples)

    monkeypatch.setattr(losses, "losses_of", recorded)
    return batches


def test_the_logits_of_a_batch_have_at_most_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, targets: list[list[int]]
) -> None:
    """Whatever the batch size. The longest target may be in one of the shorter examples."""
    tokens = tiny.tokenizer()
    lengths = [(20, 2), (9, 12), (3, 13), (9, 2), (2, 2), (1, 1), (1, 1)]  # of source and target
    rows = [
        TokenizedExample(str(n), [5 + n] * source, [6] * target, [], 0) for n, (source, target) in enumerate(lengths)
    ]
    write_tokenized_examples(tmp_path, [rows])
    monkeypatch.setattr(losses, "_LOGITS_BYTES", 4 * len(tokens) * 15)
    found = list(example_losses(tiny.model(tokens), TokenizedDataset(tmp_path), 64))
    assert sorted(index for index, *_ in found) == list(range(len(rows)))
    assert targets == [[2], [12], [13], [2, 2, 1, 1]]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), CPU_HAS_NO_MEMORY, MemoryError()], ids=["gpu", "cpu", "python"]
)
def test_where_memory_ends_batches_are_halved_from_then_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, targets: list[list[int]], error: Exception
) -> None:
    tokens = tiny.tokenizer()
    network, data = widely_drawn(tiny.model(tokens)), tiny.dataset(tokens, tmp_path)
    whole = list(example_losses(network, data, 6))
    targets.clear()
    compute = Causal.target_logits

    def short_of_memory(self: Causal, network: Any, batch: Any) -> Any:
        if len(batch["labels"]) > 2:
            raise error
        return compute(self, network, batch)

    monkeypatch.setattr(Causal, "target_logits", short_of_memory)
    halved = list(example_losses(network, data, 6))
    assert [index for index, *_ in halved] == [index for index, *_ in whole]
    assert [loss for _, loss, _ in halved] == pytest.approx([loss for _, loss, _ in whole], rel=1e-5)
    assert list(map(len, targets)) == [6, 3, 2, 2, 2, 2, 2, 2]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/group", world_size=1, rank=0)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_an_example_that_does_not_fit_alone_is_reported_with_what_helps() -> None:
    def work(batch: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError

    with pytest.raises(OutOfMemory, match=r"memory has ended on a single text: lower tokenize\.max_source_tokens"):
        Halving(torch.nn.Module())(work, [1, 2, 3])


def test_a_sharded_network_does_not_halve(mesh: DeviceMesh) -> None:
    """It would make more passes than in the other processes, which then wait for it forever. A process with a whole
    network halves as if it were alone."""
    tried: list[Sequence[int]] = []

    def work(batch: Sequence[int]) -> list[int]:
        tried.append(batch)
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return list(batch)

    sharded: Any = fully_shard(torch.nn.Linear(1, 1), mesh=mesh)
    with pytest.raises(OutOfMemory, match=r"memory has ended on 3 texts, and a sharded network can't halve them"):
        Halving(sharded)(work, [1, 2, 3])
    assert tried == [[1, 2, 3]]
    assert Halving(torch.nn.Linear(1, 1))(work, [1, 2, 3]) == [1, 2, 3]


def test_other_errors_are_passed_on() -> None:
    def work(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Halving(torch.nn.Module())(work, [1, 2, 3])


def with_references(tokens: PreTrainedTokenizerBase, folder: Path) -> TokenizedDataset:
    """Four sources with one to four references of unlike lengths."""
    rows = list[TokenizedExample]()
    for number, fact in enumerate(tiny.FACTS[:4]):
        own = tiny.example(tokens, fact)
        rows += [own._replace(target_ids=own.target_ids[cut:]) for cut in range(number + 1)]
    write_tokenized_examples(folder, [rows])
    return TokenizedDataset(folder)


def tokens_read(network: PreTrainedModel, work: Callable[[], object]) -> int:
    """Ids, pads too, that the network looks up meanwhile: those of its encoder, if it has one."""
    read = list[int]()
    module: Any = network.get_encoder() if network.config.is_encoder_decoder else network
    hook = module.get_input_embeddings().register_forward_hook(lambda _, inputs, __: read.append(inputs[0].numel()))
    try:
        work()
    finally:
        hook.remove()
    return sum(read)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "t5", "bart", "m2m_100", "marian", "bert", "roberta"])
def test_the_references_of_a_source_share_a_pass_over_it(name: str, tmp_path: Path) -> None:
    """With the losses of each reference alone. The encoders are bert2berts."""
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    network = widely_drawn(tiny.model(tokens, architecture=architecture))
    data = with_references(tokens, tmp_path)
    losses_on = ExampleLosses(network, data)
    (part,) = losses_on.parts
    found = dict(zip(part, losses_on(part), strict=True))
    for index, example in enumerate(data):
        (alone,), (count,) = (own.tolist() for own in losses_of(network, [example]))
        assert found[index][0] == pytest.approx(alone, rel=1e-5)
        assert found[index][1] == count
    together = tokens_read(network, lambda: losses_of(network, [data[index] for index in part]))
    assert tokens_read(network, lambda: losses_on(part)) < together


def test_where_a_shared_pass_is_wrong_each_reference_has_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokens = tiny.tokenizer()
    network, data = widely_drawn(tiny.model(tokens)), with_references(tokens, tmp_path)
    expected = list(example_losses(network, data, 64))
    monkeypatch.setattr(
        DynamicCache, "batch_select_indices", lambda self, rows: self.reorder_cache(torch.zeros_like(rows))
    )
    found = list(example_losses(network, data, 64))
    assert sorted(index for index, *_ in found) == list(range(len(data)))
    assert [loss for _, loss, _ in sorted(found)] == pytest.approx([loss for _, loss, _ in sorted(expected)], rel=1e-5)


def test_references_stay_together_and_within_the_tokens_of_a_part(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    data = with_references(tokens, tmp_path)
    longest = int(data.lengths().max())
    parts = ExampleLosses(tiny.model(tokens), data, max_tokens=4 * longest).parts
    assert sorted(index for part in parts for index in part) == list(range(len(data)))
    assert all(len(part) * int(data.lengths()[part].max()) <= 4 * longest for part in parts)
    ids = [data[index].id for part in parts for index in part]
    assert sum(one != other for one, other in pairwise(ids)) == len(set(ids)) - 1
