"""A training run: what it learns, which weights it keeps, and that a killed one ends as an unbroken one."""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from transformers import PreTrainedModel

from stages.lib.core.process import UserError
from stages.lib.models import devices
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import is_packed
from stages.lib.models.losses import example_losses, summed_loss
from stages.lib.params.fit import Adapters
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.checkpoints import mark_complete, step_of
from stages.lib.training.estimate import estimate
from stages.lib.training.fit import fit
from stages.lib.training.loop import Diverged
from stages.lib.training.micro_batches import example_count
from stages.lib.training.progress import Progress
from stages.lib.training.state import Curve
from stages.lib.training.trainable import make_trainable
from tests import tiny

LOOP, UPDATE = "stages.lib.training.loop", "stages.lib.training.update"
VALIDATION_LOSS = "stages.lib.training.validation.ValidationLoss.__call__"

Losses = list[tuple[int, float]]


class Killed(Exception):
    pass


@pytest.fixture
def data(tmp_path: Path) -> TokenizedDataset:
    return tiny.dataset(tiny.tokenizer(), tmp_path / "examples")


def trained(
    data: TokenizedDataset, folder: Path, settings: FitSettings, scorer: Any = None, **machine: Any
) -> tuple[PreTrainedModel, Curve]:
    network = tiny.model(tiny.tokenizer(), seed=settings.seed, dropout=settings.dropout)
    return network, fit(network, data, data, settings, tiny.machine(**machine), folder, "test", scorer)


def weights(network: PreTrainedModel) -> bytes:
    return save({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()})


def values(losses: Losses) -> list[float]:
    return [loss for _, loss in losses]


def mean_loss(network: PreTrainedModel, data: TokenizedDataset) -> float:
    losses = list(example_losses(network, data, 1))
    return sum(loss for _, loss, _ in losses) / sum(tokens for _, _, tokens in losses)


def plant_losses(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Validation returns these, one after the other, whatever the network has learned."""
    remaining = iter(losses)
    monkeypatch.setattr(VALIDATION_LOSS, lambda _: next(remaining))


def planted(*scores: float) -> Callable[[PreTrainedModel], float]:
    """A scorer that returns these, one after the other."""
    remaining = iter(scores)
    return lambda network: next(remaining)


def test_the_loss_falls(data: TokenizedDataset, tmp_path: Path) -> None:
    settings = tiny.settings(epochs=12)
    untrained = mean_loss(tiny.model(tiny.tokenizer(), settings.seed), data)
    _, curve = trained(data, tmp_path / "fit", settings)
    assert [step for step, _ in curve.validation] == [9, 18, 27, 36]
    assert curve.validation[-1][1] < untrained / 2
    assert curve.training[-1][1] < untrained / 2


def test_a_single_update_learns_in_spite_of_the_warmup(data: TokenizedDataset, tmp_path: Path) -> None:
    settings = tiny.settings(epochs=0.1, evals_per_run=1, warmup_fraction=0.05)
    before = mean_loss(tiny.model(tiny.tokenizer(), settings.seed), data)
    _, curve = trained(data, tmp_path / "fit", settings)
    assert curve.validation[-1][1] < before


def test_the_validation_loss_is_a_mean_over_tokens_not_over_batches(data: TokenizedDataset, tmp_path: Path) -> None:
    # one batch of the long targets, several of the short ones
    network, curve = trained(data, tmp_path / "fit", tiny.settings(batch_size=5, evals_per_run=1))
    assert curve.validation[-1][1] == pytest.approx(mean_loss(network, data), rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data: TokenizedDataset, tmp_path: Path) -> None:
    runs = (("a", 1), ("b", 1), ("c", 2))
    first, again, other = (weights(trained(data, tmp_path / name, tiny.settings(seed=seed))[0]) for name, seed in runs)
    assert first == again != other


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_micro_batches_change_no_loss(data: TokenizedDataset, tmp_path: Path, smoothing: float) -> None:
    """Targets differ in length: a mean of means would differ from the mean over tokens at the first step, and gradients
    on another scale at the second."""
    common = {"batch_size": 6, "dropout": 0.0, "epochs": 2, "label_smoothing": smoothing, "max_grad_norm": 0.1}
    _, whole = trained(data, tmp_path / "whole", tiny.settings(**common))
    _, split = trained(data, tmp_path / "split", tiny.settings(**common, micro_batch_tokens=60))
    assert values(split.training) == pytest.approx(values(whole.training), rel=1e-4)
    assert values(split.validation) == pytest.approx(values(whole.validation), rel=1e-4)


@pytest.mark.parametrize(("cost", "max_tokens"), [(64, None), (0, 60)])  # at no cost, each length has a micro-batch
def test_packed_examples_teach_what_padded_ones_do(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: int, max_tokens: int | None
) -> None:
    monkeypatch.setattr("stages.lib.training.micro_batches._SEGMENT_COST", {"cpu": cost})
    common = {"dropout": 0.0, "epochs": 2, "batch_size": 6, "micro_batch_tokens": max_tokens}
    (padded, were_packed), (packed, are_packed) = (
        curve_and_layout(data, tmp_path / attention, monkeypatch, tiny.settings(**common, attention=attention))
        for attention in ("eager", "sdpa")
    )
    assert (were_packed, are_packed) == ({False}, {True})
    assert values(packed.training) == pytest.approx(values(padded.training), rel=1e-4)


def test_with_neftune_examples_are_padded(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its noise depends on the length of a row."""
    _, are_packed = curve_and_layout(data, tmp_path / "fit", monkeypatch, tiny.settings(neftune_alpha=5.0))
    assert are_packed == {False}


def curve_and_layout(
    data: TokenizedDataset, folder: Path, monkeypatch: pytest.MonkeyPatch, settings: FitSettings
) -> tuple[Curve, set[bool]]:
    """The curve of a training run, and whether its micro-batches are packed."""
    are_packed = set[bool]()

    def watched(interface: Any, network: Any, batch: Any, label_smoothing: float) -> Any:
        are_packed.add(is_packed(batch))
        return summed_loss(interface, network, batch, label_smoothing)

    with monkeypatch.context() as patch:
        patch.setattr(f"{UPDATE}.summed_loss", watched)
        _, curve = trained(data, folder, settings)
    return curve, are_packed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_learns_the_same(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # each kernel takes seconds to compile, so this is one layer, compiled once for batches of any shape
    monkeypatch.setattr("stages.lib.training.micro_batches._MICRO_BATCH_COST", {"cpu": 10**6})
    monkeypatch.setattr("torch._dynamo.config.assume_static_by_default", False)
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)  # it can hold code for other instructions
    curves = []
    for compiled in (False, True):
        network = tiny.model(tiny.tokenizer(), architecture=tiny.ARCHITECTURE | {"n_layer": 1}, dropout=0.0)
        settings = tiny.settings(dropout=0.0, epochs=1, evals_per_run=1, compile=compiled)
        curves.append(fit(network, data, data, settings, tiny.machine(), tmp_path / str(compiled), title="test"))
        assert not any("_orig_mod" in name for name in network.state_dict())
    assert values(curves[1].training) == pytest.approx(values(curves[0].training), rel=1e-4)
    assert values(curves[1].validation) == pytest.approx(values(curves[0].validation), rel=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_when_memory_ends_micro_batches_are_halved_and_the_batch_stays(
    data: TokenizedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    attention: str,
) -> None:
    common = {"batch_size": 6, "dropout": 0.0, "epochs": 2, "attention": attention}
    _, whole = trained(data, tmp_path / "whole", tiny.settings(**common))

    def short_of_memory(interface: Any, network: Any, batch: Any, label_smoothing: float) -> Any:
        loss = summed_loss(interface, network, batch, label_smoothing)
        if example_count(batch) > 2:
            loss.backward()  # what was computed so far must not count
            raise torch.OutOfMemoryError
        return loss

    monkeypatch.setattr(f"{UPDATE}.summed_loss", short_of_memory)
    _, halved = trained(data, tmp_path / "halved", tiny.settings(**common))
    assert values(halved.validation) == pytest.approx(values(whole.validation), rel=1e-4)
    assert "memory has ended; micro-batches now have at most 2 examples" in capsys.readouterr().out


def test_an_operation_without_a_deterministic_way_is_computed_in_the_usual_way(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expected = trained(data, tmp_path / "usual", tiny.settings(dropout=0.0))

    @contextmanager
    def deterministic() -> Iterator[None]:
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)

    def never_the_same(interface: Any, network: Any, batch: Any, label_smoothing: float) -> Any:
        loss = summed_loss(interface, network, batch, label_smoothing)
        if torch.are_deterministic_algorithms_enabled():
            loss.backward()  # what was computed so far must not count
            torch.zeros(1).put_(torch.tensor([0]), torch.ones(1))  # for which torch has no deterministic way
        return loss

    monkeypatch.setattr(f"{UPDATE}.deterministic", deterministic)
    monkeypatch.setattr(f"{UPDATE}.summed_loss", never_the_same)
    _, curve = trained(data, tmp_path / "varying", tiny.settings(dropout=0.0))
    assert curve.training == expected.training
    printed = capsys.readouterr().out
    assert printed.count("test: sums vary on this GPU; after a kill, the last digits may differ") == 1


def test_when_not_even_one_example_fits_the_message_says_what_helps(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(f"{UPDATE}.summed_loss", no_memory)
    with pytest.raises(UserError, match=r"memory has ended at step 1; lower fit\.micro_batch_tokens"):
        trained(data, tmp_path / "fit", tiny.settings())


def test_gradient_checkpointing_changes_no_byte(data: TokenizedDataset, tmp_path: Path) -> None:
    networks, passes = [], {False: 0, True: 0}
    for checkpointing in passes:
        network: Any = tiny.model(tiny.tokenizer())

        def count(module: Any, inputs: Any, output: Any, checkpointing: bool = checkpointing) -> None:
            passes[checkpointing] += module.training

        network.transformer.h[0].ln_1.register_forward_hook(count)
        machine = tiny.machine(gradient_checkpointing=checkpointing)
        fit(network, data, data, tiny.settings(), machine, tmp_path / str(checkpointing), title="test")
        networks.append(network)
    assert weights(networks[0]) == weights(networks[1])
    assert passes[True] == 2 * passes[False]


OTHER_NAMES_ON_THE_HUB = {
    "gpt_neox": {"num_hidden_layers": 1, "num_attention_heads": 2},
    "mixtral": {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2},
}


@pytest.mark.parametrize("name", ["gpt2", *OTHER_NAMES_ON_THE_HUB])
def test_the_weights_of_the_best_evaluation_are_kept(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    own = OTHER_NAMES_ON_THE_HUB.get(name, {})
    other = {"model_type": name, "hidden_size": 32, "intermediate_size": 64, **own}
    network = tiny.model(tiny.tokenizer(), architecture=other if own else None)
    losses, evaluated = iter([3.0, 1.0, 2.0, 2.0]), list[bytes]()

    def evaluate(_: Any) -> float:
        evaluated.append(weights(network))
        return next(losses)

    monkeypatch.setattr(VALIDATION_LOSS, evaluate)
    curve = fit(network, data, data, tiny.settings(), tiny.machine(), tmp_path / "fit", title="test")
    assert curve.best() == (6, 1.0)
    assert len({*evaluated}) == 4
    assert weights(network) == evaluated[1]


def test_patience_ends_a_run_that_no_longer_improves(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_losses(monkeypatch, 4.0, 2.0, 3.0, 2.0)
    settings = tiny.settings(epochs=8, evals_per_run=8, early_stopping_patience=2)
    _, curve = trained(data, tmp_path / "fit", settings)
    assert values(curve.validation) == [4.0, 2.0, 3.0, 2.0]
    assert curve.best() == (6, 2.0)


@dataclass
class Watch:
    dies_at: int = -1  # the step at whose start a run ends, as kill -9 would end it
    began: list[int] = field(default_factory=list)  # steps that runs have begun with


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    own = Watch()

    class Watched(Progress):
        def __init__(self, accelerator: Any, title: str, steps: int, done: int) -> None:
            super().__init__(accelerator, title, steps, done)
            own.began.append(done)
            self._done = done

        def advance(self, tokens: int) -> None:
            super().advance(tokens)
            self._done += 1
            if self._done == own.dies_at:
                raise Killed

    monkeypatch.setattr(f"{LOOP}.Progress", Watched)
    return own


@pytest.fixture
def sparse_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of the curve are further apart than evaluations, so a checkpoint falls between two of them."""
    monkeypatch.setattr(f"{LOOP}._CURVE_POINTS", 3)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Curve]:
    """Weights and sparse curve of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("unbroken")
    data = tiny.dataset(tiny.tokenizer(), folder / "examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{LOOP}._CURVE_POINTS", 3)
        network, curve = trained(data, folder / "fit", tiny.settings())
    return weights(network), curve


@pytest.mark.usefixtures("sparse_curve")
@pytest.mark.parametrize(
    ("step", "seconds", "begins"),
    [(4, 600.0, 3), (7, 600.0, 6), (11, 600.0, 9), (1, 1e-9, 1), (8, 1e-9, 8), (11, 1e-9, 11)],
)
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(
    data: TokenizedDataset,
    tmp_path: Path,
    unbroken: tuple[bytes, Curve],
    watch: Watch,
    step: int,
    seconds: float,
    begins: int,
) -> None:
    """From an evaluation, every 3 of 12 steps, or from a step where the seconds were over."""
    watch.dies_at = step
    with pytest.raises(Killed):
        trained(data, tmp_path / "fit", tiny.settings(), checkpoint_seconds=seconds)
    watch.dies_at = -1
    network, curve = trained(data, tmp_path / "fit", tiny.settings())
    assert watch.began == [0, begins]
    assert (weights(network), curve) == unbroken


def test_a_resumed_run_keeps_its_patience(
    data: TokenizedDataset, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny.settings(epochs=8, evals_per_run=8, early_stopping_patience=3)
    losses = [5.0, 2.0, 3.0, 4.0, 3.0]
    plant_losses(monkeypatch, *losses)
    expected, curve = trained(data, tmp_path / "unbroken", settings)
    assert values(curve.validation) == losses
    plant_losses(monkeypatch, *losses)
    watch.dies_at = curve.validation[-2][0] + 1
    with pytest.raises(Killed):
        trained(data, tmp_path / "broken", settings)
    watch.dies_at = -1
    network, again = trained(data, tmp_path / "broken", settings)
    assert again.validation == curve.validation
    assert weights(network) == weights(expected)


@pytest.mark.parametrize("end", ["patience", "the last step", "mean of checkpoints"])
def test_a_finished_run_is_not_trained_again(
    end: str, data: TokenizedDataset, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed after its last checkpoint."""
    settings: dict[str, Any] = {"epochs": 1.5}
    scorers: list[Any] = [None, None]
    if end == "patience":
        settings = {"epochs": 8, "evals_per_run": 8, "early_stopping_patience": 3}
        plant_losses(monkeypatch, 5.0, 2.0, 3.0, 4.0, 3.0)
    elif end == "mean of checkpoints":
        monkeypatch.setattr(devices, "_has_bfloat16", lambda: True)
        settings = {"metric_for_best_model": "bleu", "average_checkpoints": 3, "precision": "bfloat16"}
        scorers = [planted_and_computed(data, *scores) for scores in ([1.0, 3.0, 7.0, 5.0, 9.0], [9.0])]
    (expected, curve), (network, again) = (
        trained(data, tmp_path / "fit", tiny.settings(**settings), scorer) for scorer in scorers
    )
    assert watch.began == [0]
    assert (curve.averaged is not None) == (end == "mean of checkpoints")
    assert again == curve
    assert weights(network) == weights(expected)


def planted_and_computed(data: TokenizedDataset, *scores: float) -> Any:
    """A scorer that returns these, one after the other, plus a number below 1 that its network computes."""
    remaining = iter(scores)

    def scorer(network: PreTrainedModel) -> float:
        batch = interface_of(network).training_batch(list(data), 0)
        with torch.no_grad():
            logits = interface_of(network.eval()).target_logits(network, batch)
        return next(remaining) + logits.float().mean().sigmoid().item()

    return scorer


@pytest.mark.usefixtures("sparse_curve")
def test_sigterm_saves_and_ends_and_the_next_run_resumes(
    data: TokenizedDataset,
    tmp_path: Path,
    unbroken: tuple[bytes, Curve],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Terminate(Progress):
        advanced = 0

        def advance(self, tokens: int) -> None:
            self.advanced += 1
            if self.advanced == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(f"{LOOP}.Progress", Terminate)
        with pytest.raises(SystemExit, match="143"):
            trained(data, tmp_path / "fit", tiny.settings())
    assert "test: stopped and saved at step 5; run it again to continue" in capsys.readouterr().out
    network, curve = trained(data, tmp_path / "fit", tiny.settings())
    assert (weights(network), curve) == unbroken


def test_the_best_checkpoint_stays_and_the_last_one_until_the_next_is_complete(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[list[int]] = []

    def look(checkpoint: Path) -> None:
        there.append(sorted(map(step_of, checkpoint.parent.glob("checkpoint-*"))))
        mark_complete(checkpoint)

    monkeypatch.setattr("stages.lib.training.checkpoints.mark_complete", look)
    plant_losses(monkeypatch, 1.0, 2.0, 3.0, 2.0)
    trained(data, tmp_path / "fit", tiny.settings())
    assert there == [[3], [3, 6], [3, 6, 9], [3, 9, 12]]


def test_a_checkpoint_that_cannot_be_written_is_one_line(data: TokenizedDataset, tmp_path: Path) -> None:
    """As on a full disk: the largest file allowed is smaller than the weights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=r"the checkpoint of step 3 can't be written to .*; make room"):
            trained(data, tmp_path / "fit", tiny.settings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("sparse_curve")
def test_an_incomplete_checkpoint_is_not_used(
    data: TokenizedDataset, tmp_path: Path, unbroken: tuple[bytes, Curve]
) -> None:
    trained(data, tmp_path / "fit", tiny.settings())
    newest = max((tmp_path / "fit").glob("checkpoint-*"), key=step_of)
    (newest / "optimizer.pt").unlink()  # of a write that was cut off
    network, curve = trained(data, tmp_path / "fit", tiny.settings())
    assert (weights(network), curve) == unbroken


def test_a_training_loss_that_is_not_finite_is_one_line(data: TokenizedDataset, tmp_path: Path) -> None:
    line = r"training loss is no finite number at step \d+, on the whole batch of .*: lower fit.lear"
    # Adam's first update is the rate itself: weights of 1e20, whose products are beyond float32
    settings = tiny.settings(learning_rate=1e20, max_grad_norm=1e20, epochs=8)
    with pytest.raises(Diverged, match=line):
        trained(data, tmp_path / "fit", settings)


def test_it_names_the_examples_that_cause_it(data: TokenizedDataset, tmp_path: Path) -> None:
    network = tiny.model(tiny.tokenizer())
    red, others = ({i for e in data if ("red" in e.id) is is_red for i in e.source_ids} for is_red in (True, False))
    untied: Any = network
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    with torch.no_grad():
        untied.get_input_embeddings().weight[list(red - others)] = float("nan")
    with pytest.raises(Diverged) as error:
        fit(network, data, data, tiny.settings(batch_size=12), tiny.machine(), tmp_path / "fit", title="test")
    (line,) = error.value.lines
    assert line.startswith(
        "test: the training loss is no finite number at step 1: of 12 examples in the batch, on colour: red; thing:"
    )
    assert "blue" not in line


@pytest.mark.parametrize("adapters", [None, Adapters()])
def test_validation_and_scorer_compute_in_the_precision_of_training(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: Adapters | None
) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: True)
    settings = tiny.settings(
        adapters=adapters, precision="bfloat16", metric_for_best_model="bleu", epochs=1, evals_per_run=1
    )
    network = make_trainable(tiny.model(tiny.tokenizer()), settings)
    types: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    head: Any = network.get_output_embeddings()

    def note(module: Any, inputs: Any, logits: torch.Tensor) -> None:
        if module.training or types[True]:  # the checks before training don't count
            types[module.training].add(logits.dtype)

    head.register_forward_hook(note)

    def scorer(scored: PreTrainedModel) -> float:
        return float(torch.is_autocast_enabled("cpu"))

    curve = fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", "test", scorer)
    assert types == {True: {torch.bfloat16}, False: {torch.bfloat16}}
    assert curve.scores == [(3, 1.0)]


def test_an_example_longer_than_the_context_is_refused_before_training(data: TokenizedDataset, tmp_path: Path) -> None:
    network = tiny.model(tiny.tokenizer(), architecture=tiny.ARCHITECTURE | {"n_positions": 16})
    with pytest.raises(UserError, match="more than the model has positions for"):
        fit(network, data, data, tiny.settings(), tiny.machine(), tmp_path / "fit", title="test")


def test_a_score_decides_in_place_of_the_loss(data: TokenizedDataset, tmp_path: Path) -> None:
    scores = [3.0, 9.0, 9.0, 1.0]
    network, curve = trained(data, tmp_path / "fit", tiny.settings(metric_for_best_model="bleu"), planted(*scores))
    assert curve.scores == list(zip([3, 6, 9, 12], scores, strict=True))
    assert curve.best() == (6, 9.0)
    saved = load_file(tmp_path / "fit/checkpoint-6/model.safetensors")
    assert all(torch.equal(weights, network.state_dict()[name]) for name, weights in saved.items())


def test_patience_counts_by_the_score_too(data: TokenizedDataset, tmp_path: Path) -> None:
    settings = tiny.settings(metric_for_best_model="bleu", early_stopping_patience=2)
    _, curve = trained(data, tmp_path / "fit", settings, planted(3.0, 2.0, 2.0, 9.0))
    assert curve.scores == [(3, 3.0), (6, 2.0), (9, 2.0)]


@pytest.mark.parametrize("is_better", [True, False])
def test_the_mean_of_the_best_is_kept_if_it_is_better(data: TokenizedDataset, tmp_path: Path, is_better: bool) -> None:
    scorer = planted(3.0, 9.0, 8.0, 1.0, 10.0 if is_better else 9.0)
    settings = tiny.settings(metric_for_best_model="bleu", average_checkpoints=2)
    network, curve = trained(data, tmp_path / "fit", settings, scorer)
    assert curve.averaged == ((2, 10.0) if is_better else None)
    best, second = (load_file(tmp_path / f"fit/checkpoint-{step}/model.safetensors") for step in (6, 9))
    for name, weights in best.items():
        kept = (weights + second[name]) / 2 if is_better else weights
        assert torch.allclose(network.state_dict()[name], kept, atol=1e-7)


def test_a_tracker_follows_training_and_changes_nothing_else(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, _ = trained(data, tmp_path / "plain", tiny.settings())
    followed, curve = trained(data, tmp_path / "followed", tiny.settings(), report_to=["dvclive"])
    losses = (tmp_path / "reports/dvclive/plots/metrics/eval/loss.tsv").read_text().splitlines()[1:]
    assert [float(line.split("\t")[1]) for line in losses] == [pytest.approx(loss) for _, loss in curve.validation]
    assert (tmp_path / "reports/dvclive/report.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"examples", "plain", "followed", "reports"}
    assert weights(plain) == weights(followed)


@pytest.mark.parametrize(
    ("tracker", "line"),
    [
        ("wandbb", "machine -> report_to: no tracker `wandbb`; did you mean wandb?"),
        ("wandb", r"machine -> report_to: wandb is not installed here \(pip install wandb\)"),
    ],
)
def test_a_missing_tracker_is_reported_before_training(
    data: TokenizedDataset, tmp_path: Path, tracker: str, line: str
) -> None:
    with pytest.raises(UserError, match=line):
        trained(data, tmp_path / "fit", tiny.settings(), report_to=[tracker])


@pytest.mark.parametrize(
    ("options", "on_machine", "rows"),
    [
        ({}, {}, 8),
        ({"micro_batch_tokens": 40}, {}, 8),
        ({}, {"gradient_checkpointing": True}, 16),
        ({}, {"train_processes": 2}, 4),
    ],
)
def test_an_estimate_computes_two_batches_and_changes_nothing(
    data: TokenizedDataset, tmp_path: Path, options: dict[str, Any], on_machine: dict[str, Any], rows: int
) -> None:
    """Of four examples each, as training does."""
    settings, machine, passed = tiny.settings(attention="eager", **options), tiny.machine(**on_machine), 0
    alone = machine.model_copy(update={"train_processes": 1})
    expected: Any = tiny.model(tiny.tokenizer())
    network: Any = tiny.model(tiny.tokenizer())
    fit(expected, data, data, settings, alone, tmp_path / "fit", title="test")

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal passed
        passed += inputs[0].shape[0] if module.training else 0

    hook = network.transformer.h[0].ln_1.register_forward_hook(count)
    seconds, memory = estimate(network, data, data, settings, machine)
    hook.remove()
    assert passed == rows
    assert 0 < seconds < 60
    assert 2**27 < memory < 2**33
    fit(network, data, data, settings, alone, tmp_path / "again", title="test")
    assert weights(network) == weights(expected)
