"""A fit: what it learns, what it keeps, and that a killed one ends as if it had not been."""

import dataclasses
import math
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from transformers import PreTrainedModel

from stages.lib import devices, fitting, watching
from stages.lib.checkpoints import mark_complete, step_of
from stages.lib.families import causal
from stages.lib.fitting import Curve, Diverged, estimate, fit
from stages.lib.loading import pairs_in
from stages.lib.losses import agreeing_loss, pair_losses, summed_loss
from stages.lib.pairs import Pairs
from stages.lib.params.fit import Adapters, Fit
from stages.lib.process import UserError
from stages.lib.trainable import student
from tests import tiny

# a rate that rises until it wrecks the model, after a good start
WRECKING = {"learning_rate": 1.0, "schedule": "constant", "warmup_fraction": 0.99, "max_grad_norm": 100.0}


class Killed(Exception):
    pass


@pytest.fixture
def data(tmp_path: Path) -> Pairs:
    return tiny.pairs(tiny.tokenizer(), tmp_path / "pairs")


def trained(data: Pairs, folder: Path, settings: Fit, **machine: Any) -> tuple[PreTrainedModel, Curve]:
    network = tiny.model(tiny.tokenizer(), seed=settings.seed, dropout=settings.dropout)
    return network, fit(network, data, data, settings, tiny.machine(**machine), folder, title="test")


def weights(network: PreTrainedModel) -> bytes:
    return save({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()})


def test_the_validation_loss_falls(data: Pairs, tmp_path: Path) -> None:
    _, curve = trained(data, tmp_path / "fit", tiny.settings(epochs=12))
    assert [step for step, _ in curve.validation] == [9, 18, 27, 36]
    assert curve.validation[-1][1] < curve.validation[0][1] * 0.75


def test_the_validation_loss_is_a_mean_over_tokens_not_over_batches(data: Pairs, tmp_path: Path) -> None:
    # one batch of the long targets, several of the short ones
    network, curve = trained(data, tmp_path / "fit", tiny.settings(batch_size=5, validations=1))
    losses = list(pair_losses(network, data, 1))
    expected = sum(loss for _, loss, _ in losses) / sum(tokens for _, _, tokens in losses)
    assert curve.validation[-1][1] == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data: Pairs, tmp_path: Path) -> None:
    runs = (("a", 1), ("b", 1), ("c", 2))
    first, again, other = (weights(trained(data, tmp_path / name, tiny.settings(seed=seed))[0]) for name, seed in runs)
    assert first == again != other


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_parts_of_a_batch_save_memory_and_change_nothing_else(data: Pairs, tmp_path: Path, smoothing: float) -> None:
    """Targets differ in length: a mean of means would differ from the mean over tokens at the first step, and
    gradients scaled otherwise would at the second."""
    common = {"batch_size": 6, "dropout": 0.0, "epochs": 2, "label_smoothing": smoothing, "max_grad_norm": 0.1}
    _, whole = trained(data, tmp_path / "whole", tiny.settings(**common))
    _, parts = trained(data, tmp_path / "parts", tiny.settings(**common, micro_batch_tokens=60))
    assert [loss for _, loss in parts.training] == pytest.approx([loss for _, loss in whole.training], rel=1e-4)
    assert [loss for _, loss in parts.validation] == pytest.approx([loss for _, loss in whole.validation], rel=1e-4)


@pytest.mark.parametrize(("table_cost", "most"), [(64, None), (0, 60)])  # of no cost: one for every length
def test_a_fit_without_pads_learns_the_same(
    data: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table_cost: int, most: int | None
) -> None:
    monkeypatch.setattr(fitting, "_PART_COST", {"cpu": table_cost})
    common = {"dropout": 0.0, "epochs": 2, "batch_size": 6, "micro_batch_tokens": most}
    (padded, were_flat), (flat, are_flat) = (
        curve_and_layout(data, tmp_path / attention, monkeypatch, tiny.settings(**common, attention=attention))
        for attention in ("eager", "sdpa")
    )
    assert (were_flat, are_flat) == ({False}, {True})
    assert [loss for _, loss in flat.training] == pytest.approx([loss for _, loss in padded.training], rel=1e-4)


def test_noise_by_the_length_of_a_row_is_by_that_of_a_pair(
    data: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, are_flat = curve_and_layout(data, tmp_path / "fit", monkeypatch, tiny.settings(neftune_alpha=5.0))
    assert are_flat == {False}


def curve_and_layout(
    data: Pairs, folder: Path, monkeypatch: pytest.MonkeyPatch, settings: Fit
) -> tuple[Curve, set[bool]]:
    """The curve of a fit, and whether its parts are pairs end to end."""
    are_flat = set[bool]()

    def watched(family: Any, network: Any, batch: Any, label_smoothing: float) -> Any:
        are_flat.add("keep" in batch)
        return summed_loss(family, network, batch, label_smoothing)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "summed_loss", watched)
        _, curve = trained(data, folder, settings)
    return curve, are_flat


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_fit_learns_the_same(data: Pairs, tmp_path: Path) -> None:
    common = {"dropout": 0.0, "epochs": 1}
    _, plain = trained(data, tmp_path / "plain", tiny.settings(**common))
    network, compiled = trained(data, tmp_path / "compiled", tiny.settings(**common, compile=True))
    assert [loss for _, loss in compiled.training] == pytest.approx([loss for _, loss in plain.training], rel=1e-4)
    assert not any("_orig_mod" in name for name in network.state_dict())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_when_memory_ends_parts_are_halved_and_the_batch_stays(
    data: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    attention: str,
) -> None:
    common = {"batch_size": 6, "dropout": 0.0, "epochs": 2, "attention": attention}
    _, whole = trained(data, tmp_path / "whole", tiny.settings(**common))

    def short_of_memory(family: Any, network: Any, batch: Any, label_smoothing: float) -> Any:
        loss = summed_loss(family, network, batch, label_smoothing)
        if pairs_in(batch) > 2:
            loss.backward()  # what was computed so far must not count
            raise torch.OutOfMemoryError
        return loss

    monkeypatch.setattr(fitting, "summed_loss", short_of_memory)
    _, parts = trained(data, tmp_path / "parts", tiny.settings(**common))
    assert [loss for _, loss in parts.validation] == pytest.approx([loss for _, loss in whole.validation], rel=1e-4)
    assert "memory has ended; batches are computed in parts of at most 2 pairs" in capsys.readouterr().out


def test_what_can_not_be_repeated_to_the_bit_is_computed_all_the_same(
    data: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expected = trained(data, tmp_path / "usual", tiny.settings(dropout=0.0))

    @contextmanager
    def repeatable() -> Iterator[None]:
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)

    def never_the_same(family: Any, network: Any, batch: Any, label_smoothing: float) -> Any:
        loss = summed_loss(family, network, batch, label_smoothing)
        if torch.are_deterministic_algorithms_enabled():
            loss.backward()  # what was computed so far must not count
            torch.zeros(1).put_(torch.tensor([0]), torch.ones(1))  # torch has no such way for it
        return loss

    monkeypatch.setattr(fitting, "repeatable", repeatable)
    monkeypatch.setattr(fitting, "summed_loss", never_the_same)
    _, curve = trained(data, tmp_path / "varying", tiny.settings(dropout=0.0))
    assert curve.training == expected.training
    assert (
        capsys.readouterr().out.count("test: sums vary on this GPU; after a kill, the last digits may be others") == 1
    )


def test_where_not_even_one_pair_fits_it_is_said_what_helps(
    data: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(fitting, "summed_loss", no_memory)
    with pytest.raises(UserError, match=r"memory has ended at step 1; lower fit\.micro_batch_tokens"):
        trained(data, tmp_path / "fit", tiny.settings())


def test_activations_computed_twice_change_no_byte(data: Pairs, tmp_path: Path) -> None:
    networks, passes = [], {False: 0, True: 0}
    for twice in passes:
        network: Any = tiny.model(tiny.tokenizer())

        def count(module: Any, inputs: Any, output: Any, twice: bool = twice) -> None:
            passes[twice] += module.training

        network.transformer.h[0].ln_1.register_forward_hook(count)
        machine = tiny.machine(gradient_checkpointing=twice)
        fit(network, data, data, tiny.settings(), machine, tmp_path / str(twice), title="test")
        networks.append(network)
    assert weights(networks[0]) == weights(networks[1])
    assert passes[True] == 2 * passes[False]


NAMED_OTHERWISE_ON_THE_HUB = {
    "gpt_neox": {"num_hidden_layers": 1, "num_attention_heads": 2},
    "mixtral": {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2},
}


@pytest.mark.parametrize("name", ["gpt2", *NAMED_OTHERWISE_ON_THE_HUB])
def test_the_weights_kept_are_those_of_the_best_validation(data: Pairs, tmp_path: Path, name: str) -> None:
    own = NAMED_OTHERWISE_ON_THE_HUB.get(name, {})
    other = {"model_type": name, "hidden_size": 32, "intermediate_size": 64, **own}
    network = tiny.model(tiny.tokenizer(), architecture=other if own else None)
    settings = tiny.settings(epochs=12, validations=12, **WRECKING)
    curve = fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", title="test")
    assert curve.best()[0] < curve.validation[-1][0]
    losses = list(pair_losses(network, data, 4))
    assert sum(loss for _, loss, _ in losses) / sum(n for _, _, n in losses) == pytest.approx(curve.best()[1], rel=1e-4)


def test_patience_ends_a_fit_that_no_longer_gains(data: Pairs, tmp_path: Path) -> None:
    settings = tiny.settings(epochs=40, validations=40, early_stopping_patience=2, **WRECKING)
    _, curve = trained(data, tmp_path / "fit", settings)
    assert len(curve.validation) < 40
    assert curve.best()[0] == curve.validation[-3][0]


@dataclass
class Watch:
    dies_at: int = -1  # the step at whose start a fit ends, as kill -9 would have it
    began: list[int] = field(default_factory=list)  # steps that fits have begun with


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    own = Watch()

    class Watched(watching.Progress):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            own.began.append(state.global_step)
            super().on_train_begin(args, state, control, **kwargs)

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == own.dies_at:
                raise Killed

    monkeypatch.setattr(fitting, "Progress", Watched)
    return own


@pytest.mark.parametrize(
    ("step", "seconds", "begins"),
    [(4, 600.0, 3), (7, 600.0, 6), (11, 600.0, 9), (1, 1e-9, 1), (8, 1e-9, 8), (11, 1e-9, 11)],
)
def test_a_killed_fit_goes_on_and_ends_with_the_same_bytes(
    data: Pairs,
    tmp_path: Path,
    watch: Watch,
    step: int,
    seconds: float,
    begins: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a validation, every 3 of 12 steps, or whenever the seconds are over; points of the curve are further apart."""
    monkeypatch.setattr(fitting, "_CURVE_POINTS", 3)
    settings = tiny.settings(epochs=4, validations=4)
    expected, expected_curve = trained(data, tmp_path / "unbroken", settings)
    watch.dies_at = step
    with pytest.raises(Killed):
        trained(data, tmp_path / "broken", settings, checkpoint_seconds=seconds)
    watch.dies_at = -1
    network, curve = trained(data, tmp_path / "broken", settings)
    assert watch.began == [0, 0, begins]
    assert weights(network) == weights(expected)
    assert dataclasses.asdict(curve) == dataclasses.asdict(expected_curve)


def test_patience_is_not_forgotten_by_a_kill(data: Pairs, tmp_path: Path, watch: Watch) -> None:
    settings = tiny.settings(epochs=40, validations=40, early_stopping_patience=3, **WRECKING)
    expected, curve = trained(data, tmp_path / "unbroken", settings)
    watch.dies_at = curve.validation[-2][0] + 1
    with pytest.raises(Killed):
        trained(data, tmp_path / "broken", settings)
    watch.dies_at = -1
    network, again = trained(data, tmp_path / "broken", settings)
    assert again.validation == curve.validation
    assert weights(network) == weights(expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 40, "validations": 40, "early_stopping_patience": 3, **WRECKING},
        {"epochs": 1.5},
        {"average_best": 3, "precision": "bfloat16", "epochs": 12, "validations": 6}
        | {"learning_rate": 0.07, "schedule": "constant", "seed": 7},
    ],
)
def test_a_fit_that_had_ended_when_it_was_killed_learns_no_more(
    settings: dict[str, Any], data: Pairs, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: True)
    expected, curve = trained(data, tmp_path / "fit", tiny.settings(**settings))
    network, again = trained(data, tmp_path / "fit", tiny.settings(**settings))
    assert watch.began == [0]
    assert bool(curve.averaged) == ("average_best" in settings)
    assert dataclasses.asdict(again) == dataclasses.asdict(curve)
    assert weights(network) == weights(expected)


def test_sigterm_saves_and_ends_and_the_next_run_goes_on(
    data: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, expected_curve = trained(data, tmp_path / "unbroken", tiny.settings())

    class Terminate(watching.Progress):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "Progress", Terminate)
        with pytest.raises(SystemExit, match="143"):
            trained(data, tmp_path / "broken", tiny.settings())
    assert "test: stopped at step 5, which is saved; run it again to go on" in capsys.readouterr().out
    network, curve = trained(data, tmp_path / "broken", tiny.settings())
    assert weights(network) == weights(expected)
    assert dataclasses.asdict(curve) == dataclasses.asdict(expected_curve)


def test_the_one_before_and_the_best_are_kept_until_a_checkpoint_is_whole(
    data: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[list[int]] = []

    def look(checkpoint: Path) -> None:
        there.append(sorted(map(step_of, checkpoint.parent.glob("checkpoint-*"))))
        mark_complete(checkpoint)

    monkeypatch.setattr(fitting, "mark_complete", look)
    _, curve = trained(data, tmp_path / "fit", tiny.settings(**WRECKING))
    assert curve.best()[0] == 3
    assert there == [[3], [3, 6], [3, 6, 9], [3, 9, 12]]


def test_a_checkpoint_that_cannot_be_written_is_one_line(data: Pairs, tmp_path: Path) -> None:
    """As on a full disk: the largest file allowed is smaller than the weights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=r"the checkpoint of step 3 can't be written to .*; make room"):
            trained(data, tmp_path / "fit", tiny.settings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_cut_off_in_mid_write_is_not_used(data: Pairs, tmp_path: Path) -> None:
    settings = tiny.settings()
    expected, _ = trained(data, tmp_path / "unbroken", settings)
    trained(data, tmp_path / "broken", settings)
    newest = max((tmp_path / "broken").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "optimizer.pt").unlink()  # Trainer would go on without it, with other moments and no word
    network, _ = trained(data, tmp_path / "broken", settings)
    assert weights(network) == weights(expected)


def test_a_loss_that_is_no_number_ends_the_fit_with_one_line(data: Pairs, tmp_path: Path) -> None:
    with pytest.raises(
        Diverged, match=r"training loss is no finite number at step \d+, on the whole batch of .*: lower fit.lear"
    ):
        trained(data, tmp_path / "fit", tiny.settings(learning_rate=1e20, max_grad_norm=1e20, epochs=8))


def test_the_pairs_to_blame_for_it_are_named(data: Pairs, tmp_path: Path) -> None:
    network = tiny.model(tiny.tokenizer())
    red, others = ({i for p in data if ("red" in p.id) is is_red for i in p.source_ids} for is_red in (True, False))
    untied: Any = network
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    with torch.no_grad():
        untied.get_input_embeddings().weight[list(red - others)] = float("nan")
    with pytest.raises(Diverged) as error:
        fit(network, data, data, tiny.settings(batch_size=12), tiny.machine(), tmp_path / "fit", title="test")
    (line,) = error.value.lines
    assert line.startswith(
        "test: the training loss is no finite number at step 1: of 12 pairs in the batch, on colour: red; thing:"
    )
    assert "blue" not in line


@pytest.mark.parametrize(("here", "elsewhere"), [(float("nan"), 0.0), (1.0, 1.0), (1.0, 0.0)])
def test_a_loss_that_breaks_in_one_process_ends_every_one(data: Pairs, here: float, elsewhere: float) -> None:
    """Else the others would wait for its gradients; and what is summed over them has to stay a number."""
    broken = math.isnan(here) or elsewhere > 0

    class Accelerator:
        def reduce(self, own: torch.Tensor, how: str) -> torch.Tensor:
            assert (own.item(), how) == (float(math.isnan(here)), "sum")
            return own + elsewhere

    trainer: Any = SimpleNamespace(
        accelerator=Accelerator(),
        args=SimpleNamespace(world_size=2),
        state=SimpleNamespace(global_step=6),
        network=tiny.model(tiny.tokenizer()),
        title="test",
        _order=SimpleNamespace(at=lambda step: [0, 1]),
        _train=data,
    )
    with pytest.raises(Diverged, match="no finite number at step 7") if broken else nullcontext():
        fitting._TargetTrainer._check_finite(trainer, torch.tensor(here))


@pytest.mark.parametrize("adapters", [None, Adapters()])
def test_validation_and_judge_compute_in_the_precision_of_training(
    data: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: Adapters | None
) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: True)
    settings = tiny.settings(adapters=adapters, precision="bfloat16", choose_by="bleu", epochs=1, validations=1)
    network = student(tiny.model(tiny.tokenizer()), settings)
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    head: Any = network.get_output_embeddings()

    def note(module: Any, inputs: Any, logits: torch.Tensor) -> None:
        if module.training or kinds[True]:  # what is checked before training counts for nothing
            kinds[module.training].add(logits.dtype)

    head.register_forward_hook(note)

    def judge(judged: PreTrainedModel) -> float:
        return float(torch.is_autocast_enabled("cpu"))

    curve = fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", "test", judge)
    assert kinds == {True: {torch.bfloat16}, False: {torch.bfloat16}}
    assert curve.scores == [(3, 1.0)]


def test_a_pair_longer_than_the_context_is_refused_before_training(data: Pairs, tmp_path: Path) -> None:
    network = tiny.model(tiny.tokenizer(), architecture=tiny.ARCHITECTURE | {"n_positions": 16})
    with pytest.raises(UserError, match="more than the model has positions for"):
        fit(network, data, data, tiny.settings(), tiny.machine(), tmp_path / "fit", title="test")


def test_a_score_chooses_in_place_of_the_loss(data: Pairs, tmp_path: Path) -> None:
    scores = [3.0, 9.0, 9.0, 1.0]
    given = iter(scores)
    network = tiny.model(tiny.tokenizer())
    settings = tiny.settings(choose_by="bleu")
    curve = fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", "test", lambda _: next(given))
    assert curve.scores == list(zip([3, 6, 9, 12], scores, strict=True))
    assert curve.best() == (6, 9.0)
    saved = load_file(tmp_path / "fit/checkpoint-6/model.safetensors")
    assert all(torch.equal(weights, network.state_dict()[name]) for name, weights in saved.items())


def test_patience_counts_by_the_score_too(data: Pairs, tmp_path: Path) -> None:
    given = iter([3.0, 2.0, 2.0, 9.0])
    settings = tiny.settings(choose_by="bleu", early_stopping_patience=2)
    network = tiny.model(tiny.tokenizer())
    curve = fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", "test", lambda _: next(given))
    assert curve.scores == [(3, 3.0), (6, 2.0), (9, 2.0)]


@pytest.mark.parametrize("is_better", [True, False])
def test_the_mean_of_the_best_is_kept_where_it_is_better(data: Pairs, tmp_path: Path, is_better: bool) -> None:
    given = iter([3.0, 9.0, 8.0, 1.0, 10.0 if is_better else 9.0])
    settings = tiny.settings(choose_by="bleu", average_best=2)
    network = tiny.model(tiny.tokenizer())
    curve = fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", "test", lambda _: next(given))
    assert curve.averaged == ((2, 10.0) if is_better else None)
    best, second = (load_file(tmp_path / f"fit/checkpoint-{step}/model.safetensors") for step in (6, 9))
    for name, weights in best.items():
        kept = (weights + second[name]) / 2 if is_better else weights
        assert torch.allclose(network.state_dict()[name], kept, atol=1e-7)


def test_r_drop_is_the_plain_loss_without_dropout_and_asks_for_agreement_with_it(data: Pairs, tmp_path: Path) -> None:
    quiet, noisy = (tiny.model(tiny.tokenizer(), dropout=share).train() for share in (0.0, 0.3))
    batch = causal.FAMILY.training_batch(list(data), 0)
    plain = summed_loss(causal.FAMILY, quiet, batch, 0.0).item()
    assert agreeing_loss(causal.FAMILY, quiet, batch, 0.0, 5.0).item() == pytest.approx(plain, rel=1e-5)
    losses = []
    for weight in (0.0, 2.0):
        torch.manual_seed(1)
        losses.append(agreeing_loss(causal.FAMILY, noisy, batch, 0.0, weight).item())
    assert losses[1] - losses[0] == pytest.approx(2.0 * divergences(noisy, batch) / 4, rel=1e-3)
    _, curve = trained(data, tmp_path / "fit", tiny.settings(r_drop=1.0, epochs=12))
    assert curve.validation[-1][1] < curve.validation[0][1] * 0.75


def test_r_drop_of_pairs_end_to_end_is_that_of_padded_ones(data: Pairs) -> None:
    network = tiny.model(tiny.tokenizer(), dropout=0.0).train()
    padded, flat = (
        agreeing_loss(causal.FAMILY, network, make(list(data), 0), 0.1, 5.0)
        for make in (causal.FAMILY.training_batch, causal.FAMILY.flat_batch)
    )
    assert flat.item() == pytest.approx(padded.item(), rel=1e-5)


def divergences(network: PreTrainedModel, batch: Any) -> float:
    """KL one way and the other, summed over target tokens, of the two passes that the seed gives."""
    torch.manual_seed(1)
    twice = {name: torch.cat([rows, rows]) for name, rows in batch.items()}
    chances = causal.FAMILY.target_logits(network, twice).softmax(-1).chunk(2)
    there = batch["labels"] != -100
    apart = 0.0
    for one, other in (chances, chances[::-1]):
        apart += ((one * (one / other).log()).sum(-1) * there).sum().item()
    return apart


def test_a_tracker_follows_the_fit_and_leaves_the_pipeline_as_it_is(
    data: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, _ = trained(data, tmp_path / "plain", tiny.settings())
    followed, curve = trained(data, tmp_path / "followed", tiny.settings(), report_to=["dvclive"])
    losses = (tmp_path / "reports/dvclive/plots/metrics/eval/loss.tsv").read_text().splitlines()[1:]
    assert [float(line.split("\t")[1]) for line in losses] == [pytest.approx(loss) for _, loss in curve.validation]
    assert (tmp_path / "reports/dvclive/report.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"pairs", "plain", "followed", "reports"}
    assert weights(plain) == weights(followed)


@pytest.mark.parametrize(
    ("tracker", "line"),
    [
        ("wandbb", "machine -> report_to: no tracker `wandbb`; did you mean wandb?"),
        ("wandb", r"machine -> report_to: wandb is not installed here \(pip install wandb\)"),
    ],
)
def test_a_tracker_that_is_not_there_is_told_before_training(
    data: Pairs, tmp_path: Path, tracker: str, line: str
) -> None:
    with pytest.raises(UserError, match=line):
        trained(data, tmp_path / "fit", tiny.settings(), report_to=[tracker])


@pytest.mark.parametrize(
    ("options", "checkpointing", "rows"),
    [
        ({}, False, 8),
        ({"micro_batch_tokens": 40}, False, 8),
        ({"r_drop": 1.0}, False, 16),
        ({}, True, 16),
        ({"processes": 2}, False, 4),
    ],
)
def test_what_a_fit_will_cost_is_told_without_changing_it(
    data: Pairs, tmp_path: Path, options: dict[str, Any], checkpointing: bool, rows: int
) -> None:
    """By two batches of four pairs, computed as in training."""
    settings, passed = tiny.settings(attention="eager", **options), 0
    expected, _ = trained(data, tmp_path / "fit", settings, gradient_checkpointing=checkpointing)
    network: Any = tiny.model(tiny.tokenizer(), seed=settings.seed, dropout=settings.dropout)

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal passed
        passed += inputs[0].shape[0] if module.training else 0

    hook = network.transformer.h[0].ln_1.register_forward_hook(count)
    seconds, memory = estimate(network, data, data, settings, tiny.machine(gradient_checkpointing=checkpointing))
    hook.remove()
    assert passed == rows
    assert 0 < seconds < 60
    assert 2**27 < memory < 2**33
    fit(network, data, data, settings, tiny.machine(), tmp_path / "again", title="test")
    assert weights(network) == weights(expected)
