"""Where a training run stands: its curve, and what decides when it ends. A part of every checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

Point = tuple[int, float]  # update step, value


@dataclass
class Curve:
    """Losses are in nats per target token; the training loss is the one that is minimised, label smoothing included."""

    training: list[Point] = field(default_factory=list)
    validation: list[Point] = field(default_factory=list)
    scores: list[Point] = field(default_factory=list)  # on validation, if `metric_for_best_model` names one
    averaged: tuple[int, float] | None = None  # number of checkpoints, and value of their mean, if better than the best

    def best(self) -> Point:
        """Step of the best evaluation, and its score, or its loss if there are no scores."""
        (step,) = self.best_steps(1)
        return step, dict(self.scores or self.validation)[step]

    def best_steps(self, most: int) -> list[int]:
        """The steps of at most so many evaluations, the best first. Among equals, the earlier step comes first."""
        points = [(step, -score) for step, score in self.scores] or self.validation
        return [step for step, _ in sorted(points, key=lambda point: point[1])[:most]]

    def patience_is_over(self, patience: int | None) -> bool:
        """Whether so many evaluations have passed since the best one."""
        if patience is None or not self.validation:
            return False
        steps = [step for step, _ in self.validation]
        return len(steps) - 1 - steps.index(self.best_steps(1)[0]) >= patience


@dataclass
class State:
    """The same in every process."""

    step: int = 0  # updates done
    seconds: float = 0.0  # that the run has taken, over all its starts
    evaluated: float = 0.0  # the share of the run that was over at the end of the last evaluation
    halvings: int = 0  # how often micro-batches were halved
    unlogged: list[float] = field(default_factory=list)  # losses of the updates since the last point of training
    curve: Curve = field(default_factory=Curve)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        points: dict[str, Any] = {
            name: [(step, value) for step, value in values["curve"][name]]
            for name in ("training", "validation", "scores")
        }
        return cls(**{**values, "curve": Curve(**points)})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def note_loss(self, loss: float) -> None:
        """After an update."""
        self.step += 1
        self.unlogged.append(loss)

    def end_point(self) -> float:
        """The mean loss since the last point becomes a point of the curve, and is returned."""
        loss = sum(self.unlogged) / len(self.unlogged)
        self.curve.training.append((self.step, loss))
        self.unlogged = []
        return loss
