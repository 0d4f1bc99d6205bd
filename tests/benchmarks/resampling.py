"""Resampling of 10,000 predictions. Run: `python -m tests.benchmarks.resampling`. Claims: intervals from 1000 resamples
of BLEU, chrF and ROUGE take less than 5 times as long as scoring once. A comparison of two models by BLEU and chrF is
at least 5 times as fast as the paired bootstrap of sacreBLEU, both from statistics that are counted; and of the same
draws, every score is the same to 1e-6, except for the rounding of sacreBLEU's float32."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.formulas import FORMULAS
from stages.lib.scores.registry import text_scores
from stages.lib.scores.resampling import RESAMPLES, compare_scores, intervals
from stages.lib.scores.score import Score
from tests.build import prediction, section

PREDICTIONS, ROUNDS = 10_000, 3
SEED = 12345  # sacreBLEU's own


def references(draw: random.Random) -> list[str]:
    """Of 10 to 30 words, some of them much more frequent than others."""
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(5000)]
    lengths = [draw.randint(10, 30) for _ in range(PREDICTIONS)]
    return [" ".join(words[int(5000 ** draw.random()) - 1] for _ in range(length)) for length in lengths]


def model(wanted: Sequence[str], draw: random.Random) -> list[Prediction]:
    """Its texts have about a third of the words exchanged."""
    words = " ".join(wanted).split()
    return [
        prediction(
            " ".join(draw.choice(words) if draw.random() < 0.3 else word for word in reference.split()),
            reference,
            id=str(number),
        )
        for number, reference in enumerate(wanted)
    ]


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def paired_bootstrap(models: Sequence[Sequence[Prediction]], scores: Sequence[Mapping[str, Score]]) -> PairedTest:
    """sacreBLEU's. It finds the statistics counted, as `compare_scores` does."""
    texts = [[own.prediction for own in side] for side in models]
    metrics: dict[str, Any] = {"bleu": BLEU(), "chrf": CHRF()}
    for name, metric in metrics.items():
        counted = [side[name].statistics.tolist() for side in scores]
        metric.num_refs = 1
        metric._extract_corpus_statistics = lambda hypotheses, _, own=counted: own[hypotheses is texts[1]]
    return PairedTest([("first", texts[0]), ("second", texts[1])], metrics, None, "bs", RESAMPLES)


def largest_difference(score: Score, metric: Any, precision: type) -> float:
    """Of each resample's score, here and by sacreBLEU, for the same draws."""
    drawn = np.random.default_rng(SEED).choice(PREDICTIONS, size=(RESAMPLES, PREDICTIONS), replace=True)
    counts = np.stack([np.bincount(row, minlength=PREDICTIONS) for row in drawn]).astype(np.float64)
    here = FORMULAS[score.formula](counts @ score.statistics)
    rounded: Any = score.statistics.astype(precision)
    there = [metric._compute_score_from_stats(rounded[row].sum(0)).score for row in drawn]
    return float(np.abs(here - there).max())


def main() -> None:
    params = section(Evaluate, metrics=["bleu", "chrf", "rouge"])
    wanted = references(random.Random(0))
    models = [model(wanted, random.Random(seed)) for seed in (1, 2)]
    groups = [own.id for own in models[0]]
    started = time.perf_counter()
    scores = [text_scores(side, params) for side in models]
    once = (time.perf_counter() - started) / 2
    resampled = statistics.median(seconds(lambda: intervals(scores[0], groups)) for _ in range(ROUNDS))
    print(f"scoring once {once:.1f} s, {RESAMPLES} resamples {resampled:.2f} s: {resampled / once:.2f} times as long")
    both = [{name: side[name] for name in ("bleu", "chrf")} for side in scores]
    bootstrap = paired_bootstrap(models, both)
    times = [(seconds(lambda: compare_scores(both[0], both[1], groups)), seconds(bootstrap)) for _ in range(ROUNDS)]
    here, there = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"comparing two models {here:.2f} s, sacreBLEU {there:.2f} s: {there / here:.1f} times as fast")
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        double, single = (largest_difference(both[0][name], metric, own) for own in (np.float64, np.float32))
        print(f"{name}: resampled scores differ by {double:.0e} at most; by {single:.0e} in the float32 of sacreBLEU")


if __name__ == "__main__":
    main()
