"""A fit: what it learns, what it keeps, and that a killed one ends as if it had not been."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from transformers import PreTrainedModel

from stages.lib import fitting
from stages.lib.fitting import Curve, fit
from stages.lib.losses import pair_losses
from stages.lib.pairs import Pairs
from stages.lib.params.fit import Fit
from stages.lib.process import UserError
from tests import tiny


class Killed(Exception):
    pass


@pytest.fixture
def data(tmp_path: Path) -> Pairs:
    return tiny.pairs(tiny.tokenizer(), tmp_path / "pairs")


def trained(data: Pairs, folder: Path, settings: Fit) -> tuple[PreTrainedModel, Curve]:
    network = tiny.model(tiny.tokenizer(), seed=settings.seed, dropout=settings.dropout)
    return network, fit(network, data, data, settings, folder, workers=0, title="test")


def weights(network: PreTrainedModel) -> bytes:
    return save({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()})


def test_the_validation_loss_falls(data: Pairs, tmp_path: Path) -> None:
    _, curve = trained(data, tmp_path / "fit", tiny.settings(epochs=12))
    assert [step for step, _ in curve.validation] == [9, 18, 27, 36]
    assert curve.validation[-1][1] < curve.validation[0][1] * 0.75


def test_the_validation_loss_is_a_mean_over_tokens_not_over_batches(data: Pairs, tmp_path: Path) -> None:
    # one batch of the long targets, several of the short ones
    network, curve = trained(data, tmp_path / "fit", tiny.settings(batch_size=5, validations=1))
    losses = list(pair_losses(network, data, range(len(data)), 1))
    expected = sum(loss for _, loss, _ in losses) / sum(tokens for _, _, tokens in losses)
    assert curve.validation[-1][1] == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data: Pairs, tmp_path: Path) -> None:
    runs = (("a", 1), ("b", 1), ("c", 2))
    first, again, other = (weights(trained(data, tmp_path / name, tiny.settings(seed=seed))[0]) for name, seed in runs)
    assert first == again != other


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_micro_batches_save_memory_and_change_nothing_else(data: Pairs, tmp_path: Path, smoothing: float) -> None:
    """Targets differ in length: a mean of means would differ from the mean over tokens at the first step, and
    gradients scaled otherwise would at the second."""
    common = {"batch_size": 6, "dropout": 0.0, "epochs": 2, "label_smoothing": smoothing, "max_grad_norm": 0.1}
    _, whole = trained(data, tmp_path / "whole", tiny.settings(**common, micro_batches=1))
    _, parts = trained(data, tmp_path / "parts", tiny.settings(**common, micro_batches=3))
    assert [loss for _, loss in parts.training] == pytest.approx([loss for _, loss in whole.training], rel=1e-4)
    assert [loss for _, loss in parts.validation] == pytest.approx([loss for _, loss in whole.validation], rel=1e-4)


def test_the_weights_kept_are_those_of_the_best_validation(data: Pairs, tmp_path: Path) -> None:
    # a rate that wrecks the model after a good start
    settings = tiny.settings(epochs=12, learning_rate=2.0, schedule="constant", validations=12, max_grad_norm=100.0)
    network, curve = trained(data, tmp_path / "fit", settings)
    assert curve.best()[0] < curve.validation[-1][0]
    losses = list(pair_losses(network, data, range(len(data)), 4))
    assert sum(loss for _, loss, _ in losses) / sum(n for _, _, n in losses) == pytest.approx(curve.best()[1], rel=1e-4)


def test_patience_ends_a_fit_that_no_longer_gains(data: Pairs, tmp_path: Path) -> None:
    wrecking = {"learning_rate": 2.0, "schedule": "constant", "max_grad_norm": 100.0}
    settings = tiny.settings(epochs=40, validations=40, early_stopping_patience=2, **wrecking)
    _, curve = trained(data, tmp_path / "fit", settings)
    assert len(curve.validation) < 40
    assert curve.best()[0] == curve.validation[-3][0]


@pytest.mark.parametrize("step", [4, 7, 11])
def test_a_killed_fit_goes_on_and_ends_with_the_same_bytes(
    data: Pairs, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny.settings(epochs=4, validations=4)  # a checkpoint every 3 of 12 steps
    expected, expected_curve = trained(data, tmp_path / "unbroken", settings)

    class Kill(fitting._MarkComplete):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "_MarkComplete", Kill)
        with pytest.raises(Killed):
            trained(data, tmp_path / "broken", settings)
    steps: list[int] = []

    class Count(fitting._Validate):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            steps.append(state.global_step)
            return super().on_step_end(args, state, control, **kwargs)

    monkeypatch.setattr(fitting, "_Validate", Count)
    network, curve = trained(data, tmp_path / "broken", settings)
    assert steps[0] == step // 3 * 3 + 1, "it started anew"
    assert weights(network) == weights(expected)
    assert dataclasses.asdict(curve) == dataclasses.asdict(expected_curve)


def test_a_checkpoint_cut_off_in_mid_write_is_not_used(data: Pairs, tmp_path: Path) -> None:
    settings = tiny.settings()
    expected, _ = trained(data, tmp_path / "unbroken", settings)
    trained(data, tmp_path / "broken", settings)
    newest = max((tmp_path / "broken").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "optimizer.pt").unlink()  # Trainer would go on without it, with other moments and no word
    network, _ = trained(data, tmp_path / "broken", settings)
    assert weights(network) == weights(expected)


def test_a_loss_that_is_no_number_ends_the_fit_with_one_line(data: Pairs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+; lower fit.learning_rate"):
        trained(data, tmp_path / "fit", tiny.settings(learning_rate=1e20, max_grad_norm=1e20, epochs=8))


def test_a_pair_longer_than_the_context_is_refused_before_training(data: Pairs, tmp_path: Path) -> None:
    network = tiny.model(tiny.tokenizer(), architecture=tiny.ARCHITECTURE | {"n_positions": 16})
    with pytest.raises(UserError, match="more than the model has positions for"):
        fit(network, data, data, tiny.settings(), tmp_path / "fit", workers=0, title="test")


def test_batches_hold_pairs_of_like_length_in_a_new_order_every_epoch() -> None:
    lengths = torch.randint(5, 60, (1000,), generator=torch.Generator().manual_seed(1)).numpy()
    sampler = fitting._ByLength(lengths, batch_size=10, seed=1)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] != orders[1]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    spread = [max(lengths[orders[0][i : i + 10]]) - min(lengths[orders[0][i : i + 10]]) for i in range(0, 1000, 10)]
    assert sum(spread) / len(spread) < 5
