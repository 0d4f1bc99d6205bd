"""Scores of the texts that a network generates for a sample of validation. They choose the best checkpoint.

The code of predict generates the texts, always greedily. The metrics have their usual settings, and their code is here,
so that neither the settings nor the code of evaluate can make training stale.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby, islice

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import excess_tokens
from stages.lib.core.words import UNSPACED, answer_words, normalised_answer, shared_words
from stages.lib.generation.decoding import Prompt, decode, text_of
from stages.lib.models.families import interface_of
from stages.lib.params.predict import Predict
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import Label, TokenizedDataset, TokenizedExample
from stages.lib.training.validation import Scorer

Texts = Sequence[str]
References = Sequence[list[str]]  # of each text

_UNSPACED = re.compile(f"[{UNSPACED}]")
_IDEOGRAPH = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def make_scorer(
    settings: FitSettings,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[Label],
    validation: TokenizedDataset,
    batch_tokens: int | None,
) -> Scorer | None:
    """Scorer of the metric that `train.metric_for_best_model` names, from 0 to 100. None if it is the loss."""
    if settings.metric_for_best_model == "loss":
        return None
    score = _SCORES[settings.metric_for_best_model]
    spread = _spread(validation, settings.generation_eval_examples)
    questions = [_question(examples, number) for number, examples in enumerate(spread)]
    prompts = [Prompt(examples[0].source_ids, examples[0].id) for examples in questions]
    references = [[text_of(tokenizer, labels, example.target_ids) for example in examples] for examples in questions]
    longest = max(len(example.target_ids) for examples in questions for example in examples)

    def scorer(network: PreTrainedModel) -> float:
        params = _greedy(network, prompts, longest)
        decoded = decode(network, tokenizer, prompts, params, batch_tokens, title=None, labels=labels)
        return score([each.text for each in decoded], references)

    return scorer


def _bleu(texts: Texts, references: References) -> float:
    """With effective order: lengths of word sequences that no text has are left out. Else, texts of fewer than four
    words would all score 0."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize=_bleu_tokenizer(references), effective_order=True)
    return float(bleu.corpus_score(texts, _columns(references)).score)  # type: ignore[arg-type]


def _bleu_tokenizer(references: References) -> str:
    """In scripts without blanks, 13a would take a sentence for a word, and nearly every text would score 0."""
    text = "".join("".join(chain.from_iterable(references)).split())
    unspaced, ideographs = len(_UNSPACED.findall(text)), len(_IDEOGRAPH.findall(text))
    if 2 * unspaced <= len(text):
        return "13a"
    return "zh" if ideographs > 0.95 * unspaced else "char"  # `zh` leaves kana together


def _chrf(texts: Texts, references: References) -> float:
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(texts, _columns(references)).score)  # type: ignore[arg-type]


def _columns(references: References) -> list[list[str | None]]:
    """The form of sacreBLEU: the first reference of every text, then the second of every text, or None, and so on."""
    most = max(map(len, references))
    return [[own[column] if column < len(own) else None for own in references] for column in range(most)]


def _exact_match(texts: Texts, references: References) -> float:
    return _mean_of_best(
        texts, references, lambda text, truth: float(normalised_answer(text) == normalised_answer(truth))
    )


def _token_f1(texts: Texts, references: References) -> float:
    return _mean_of_best(texts, references, lambda text, truth: shared_words(answer_words(text), answer_words(truth)))


def _accuracy(texts: Texts, references: References) -> float:
    return _mean_of_best(texts, references, lambda text, truth: float(text.strip() == truth.strip()))


def _mean_of_best(texts: Texts, references: References, similarity: Callable[[str, str], float]) -> float:
    """Mean, over the texts, of the similarity to their best reference, times 100."""
    best = [max(similarity(text, truth) for truth in own) for text, own in zip(texts, references, strict=True)]
    return 100 * sum(best) / len(best)


_SCORES: dict[str, Callable[[Texts, References], float]] = {
    "bleu": _bleu,
    "chrf": _chrf,
    "exact_match": _exact_match,
    "token_f1": _token_f1,
    "accuracy": _accuracy,
}


def _spread(validation: TokenizedDataset, most: int) -> list[list[TokenizedExample]]:
    """At most so many questions, evenly spaced in validation, each with the tokenized examples of its references."""
    questions = [list(own) for _, own in groupby(validation, lambda example: example.id)]
    return list(islice(questions, 0, None, max(1, len(questions) // most)))[:most]


def _question(examples: list[TokenizedExample], number: int) -> list[TokenizedExample]:
    """A source with its references. Of a conversation, or a text in pieces, one answer, with all before it as the
    source. Which one it is changes from question to question: the last ones are often the same farewell."""
    if all(each.source_ids == examples[0].source_ids and not each.masked_positions for each in examples):
        return examples
    answers = [answer for each in examples for answer in _answers(each)]
    return [answers[number % len(answers)]]


def _answers(example: TokenizedExample) -> Iterator[TokenizedExample]:
    source, target, masked = example.source_ids, example.target_ids, set(example.masked_positions)
    for has_loss, run in groupby(range(len(target)), lambda position: position not in masked):
        first, *others = run
        if has_loss:
            before, answer = source + target[:first], target[first : first + len(others) + 1]
            yield example._replace(source_ids=before, target_ids=answer, masked_positions=[])


def _greedy(network: PreTrainedModel, prompts: Sequence[Prompt], longest: int) -> Predict:
    """Greedy generation, with room for the longest target, as far as the model has positions."""
    lengths = np.array([len(prompt.ids) for prompt in prompts])
    excess = max(0, excess_tokens(interface_of(network).name, network.config, lengths, np.array([longest])))
    return Predict.model_construct(strategy="greedy", max_new_tokens=max(1, longest - excess), seed=0)
