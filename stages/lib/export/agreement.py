"""How far the texts of a converted model agree with those of plain transformers, and what that costs in score."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from stages.lib.core.process import UserError, first_line
from stages.lib.export.interface import Format, Source
from stages.lib.export.plain import greedy, whole_model
from stages.lib.generation.settings import end_ids, generation_config
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.predict import Predict
from stages.lib.records.predictions import Prediction
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.scores.registry import text_scores
from stages.lib.scores.resampling import compare_scores

_GREEDY = {
    "strategy": "greedy",
    "min_new_tokens": 0,
    "stop": [],
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "candidates": 1,
}


class CheckedInput(NamedTuple):
    prompt: list[int]
    prediction: Prediction  # with the references; its text is replaced


def checked_inputs(predictions: Iterable[Prediction], ids: Path, folder: Path, most: int) -> list[CheckedInput]:
    """The first of the test split.

    Args:
        ids: folder that tokenize has written for predictions.
        folder: of the model.

    Raises:
        UserError: the model has another tokenizer than the ids.
    """
    tokenizer, theirs = (
        AutoTokenizer.from_pretrained(place, local_files_only=True) for place in (folder, ids / "tokenizer")
    )
    if tokenizer.get_vocab() != theirs.get_vocab():
        raise UserError(f"{folder}: its tokenizer is not that of {ids}, so its test inputs are for another model")
    sources: dict[str, list[int]] = {}
    for example in TokenizedDataset(ids / "test"):
        sources.setdefault(example.id, example.source_ids)
    chosen = islice(predictions, most)
    return [CheckedInput(_prompt(sources[own.id], own.source, tokenizer), own) for own in chosen]


def _prompt(source_ids: list[int], source: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Free text has no source; its opening is continued."""
    if tokenizer.decode(source_ids, skip_special_tokens=True):
        return source_ids
    return [*source_ids, *tokenizer(source, add_special_tokens=False)["input_ids"]]


def agreement(
    form: Format, source: Source, target: Path, inputs: Sequence[CheckedInput], predict: Predict, evaluate: Evaluate
) -> dict[str, Any]:
    """Greedy texts of both for the same inputs: how many there are and how many are equal, the mean share of tokens
    before the first that differs, and the scores of both (`plain`, `converted`) with the 95 % interval of their
    difference."""
    network = whole_model(source.folder)
    decoding = generation_config(network.generation_config, predict.model_copy(update=_GREEDY))
    prompts = [own.prompt for own in inputs]
    plain = _cut(tqdm(greedy(network, prompts, decoding), "transformers", len(prompts), unit=" texts"), decoding)
    del network  # the other one may need its memory
    try:
        answers = form.answers(source, target, prompts, decoding)
        converted = _cut(tqdm(answers, "converted", len(prompts), unit=" texts"), decoding)
    except RuntimeError as error:
        raise UserError(f"{source.folder}: converted, it can't be run: {first_line(error)}") from None
    tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    before, after = (
        [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in own] for own in (plain, converted)
    )
    equal = sum(first == second for first, second in zip(before, after, strict=True))
    common = [_common(*pair) for pair in zip(plain, converted, strict=True)]
    return {
        "count": len(inputs),
        "equal": equal,
        "share": round(equal / len(inputs), 4),
        "mean_common_prefix": round(sum(common) / len(common), 4),
        "scores": _scores([own.prediction for own in inputs], before, after, evaluate),
    }


def _cut(texts: Iterable[list[int]], decoding: GenerationConfig) -> list[list[int]]:
    """Each up to its end."""
    ends = end_ids(decoding)
    return [ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))] for ids in texts]


def _common(first: list[int], second: list[int]) -> float:
    """The share of the longer one that is equal from the start on."""
    if first == second:
        return 1.0
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in same) / max(len(first), len(second))


def _scores(
    predictions: Sequence[Prediction], plain: Sequence[str], converted: Sequence[str], evaluate: Evaluate
) -> dict[str, dict[str, float]]:
    """None without references, or where all examples are of one group."""
    groups = [own.group for own in predictions]
    if len(set(groups)) < 2 or not all(own.references for own in predictions):
        return {}
    first, second = (
        text_scores([replace(own, prediction=text) for own, text in zip(predictions, texts, strict=True)], evaluate)
        for texts in (plain, converted)
    )
    return {
        name: {
            "plain": round(found.first, 4),
            "converted": round(found.second, 4),
            "low": round(found.interval.low, 4),
            "high": round(found.interval.high, 4),
        }
        for name, found in compare_scores(first, second, groups).items()
    }
