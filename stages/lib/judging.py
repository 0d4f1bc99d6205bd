"""How well a network writes, on a sample of validation: what a fit may choose its checkpoint by, in place of the loss.

Decoded and scored by the code of predict and evaluate, but always greedily and by the usual conventions of the score,
so that a change of those two stages trains nothing again.
"""

from collections.abc import Sequence
from itertools import groupby, islice

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.decoding import Decoded, choose, decode
from stages.lib.families import family_of
from stages.lib.fitting import Judge
from stages.lib.pairs import Label, Pair, Pairs
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.fit import Fit
from stages.lib.params.predict import Predict
from stages.lib.predictions import Prediction

_CONVENTIONS = Evaluate.model_construct(lowercase=False, bleu_tokenizer="13a")


def judge_of(
    settings: Fit, tokenizer: PreTrainedTokenizerBase, labels: Sequence[Label], validation: Pairs, batch_size: int
) -> Judge | None:
    """What gives the score that `fit.choose_by` names, 0 to 100; None where the loss decides."""
    if settings.choose_by == "loss":
        return None
    # their libraries take seconds to import, which a fit that is judged by its loss can spare
    from stages.lib.scores.answers import exact_match, token_f1
    from stages.lib.scores.labels import accuracy
    from stages.lib.scores.overlap import bleu, chrf

    scores = {"bleu": bleu, "chrf": chrf, "exact_match": exact_match, "token_f1": token_f1, "accuracy": accuracy}
    score = scores[settings.choose_by]
    questions = [_question(list(own)) for own in _spread(validation, settings.choose_examples)]
    sources = [pairs[0].source_ids for pairs in questions]
    references = [[_text(tokenizer, labels, pair.target_ids) for pair in pairs] for pairs in questions]

    def judge(network: PreTrainedModel) -> float:
        if labels:
            decoded = choose(network, sources, labels, batch_size, title=None)
        else:
            params = _greedy(network, sources, [len(pair.target_ids) for pairs in questions for pair in pairs])
            decoded = decode(network, tokenizer, sources, params, batch_size, title=None)
        predictions = list(map(_prediction, references, decoded))
        return score(predictions, _CONVENTIONS)[settings.choose_by].value

    return judge


def _spread(validation: Pairs, most: int) -> list[list[Pair]]:
    """The pairs of at most so many examples, taken from the whole of validation."""
    examples = [list(own) for _, own in groupby(validation, lambda pair: pair.id)]
    return list(islice(examples, 0, None, max(1, len(examples) // most)))[:most]


def _question(pairs: list[Pair]) -> list[Pair]:
    """The pairs of an example; of a conversation, its last answer behind all that was said before."""
    if not pairs[0].only_read:
        return pairs
    last = pairs[-1]
    answer = max(last.only_read, default=-1) + 1
    return [last._replace(source_ids=last.source_ids + last.target_ids[:answer], target_ids=last.target_ids[answer:])]


def _text(tokenizer: PreTrainedTokenizerBase, labels: Sequence[Label], target_ids: list[int]) -> str:
    for label in labels:
        if label.target_ids == target_ids:
            return label.word
    return str(tokenizer.decode(target_ids, skip_special_tokens=True)).strip()


def _greedy(network: PreTrainedModel, sources: Sequence[Sequence[int]], targets: Sequence[int]) -> Predict:
    """With room for the longest target, as far as the model has positions."""
    lengths, longest = np.array(list(map(len, sources))), max(targets)
    excess = max(0, family_of(network).excess(network.config, lengths, np.array([longest])))
    return Predict.model_construct(strategy="greedy", max_new_tokens=max(1, longest - excess))


def _prediction(references: list[str], decoded: Decoded) -> Prediction:
    return Prediction("", "", references, decoded.text, decoded.stopped, False, 0.0, 0, 0)
