"""The predictions of a model for the questions of a test split, and its loss on their references."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.generation.decoding import choose_labels, decode
from stages.lib.models.devices import move_to_own_device
from stages.lib.models.losses import example_losses
from stages.lib.params.predict import Predict
from stages.lib.records.examples import Question, read_examples
from stages.lib.records.predictions import Prediction
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample, read_label_ids


def predictions_of(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Path,
    ids: Path,
    params: Predict,
    batch_size: int,
    title: str,
) -> list[Prediction]:
    """One for each question of the test split whose source and references were not rejected.

    Args:
        texts: folder of the test split's examples.
        ids: folder that tokenize has written.
        batch_size: sources decoded together.
        title: of the progress bar.
    """
    move_to_own_device(network)
    dataset, labels = TokenizedDataset(ids / "test"), read_label_ids(ids / "label_ids.json")
    prompts = list(_prompts(texts, dataset, tokenizer, params))
    sources = [prompt.ids for prompt in prompts]
    if labels:
        decoded = choose_labels(network, sources, labels, batch_size, title)
    else:
        decoded = decode(network, tokenizer, sources, params, batch_size, title)
    losses = _losses(network, dataset, batch_size)
    return [
        Prediction(
            id=prompt.question.id,
            source=prompt.question.source,
            references=prompt.question.references,
            prediction=text.text,
            finish_reason=text.finish_reason,
            reference_truncated=prompt.reference_truncated,
            reference_nats=round(losses[prompt.question.id].nats, 4),
            reference_tokens=losses[prompt.question.id].tokens,
            reference_bytes=losses[prompt.question.id].bytes,
        )
        for prompt, text in zip(prompts, decoded, strict=True)
    ]


@dataclass(frozen=True)
class _Prompt:
    question: Question
    ids: list[int]  # the input of generation
    reference_truncated: bool  # whether a document continues after its reference


@dataclass
class _Loss:
    """Summed over the references of one question."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0


def _prompts(
    texts: Path, dataset: TokenizedDataset, tokenizer: PreTrainedTokenizerBase, params: Predict
) -> Iterator[_Prompt]:
    """For the questions that have ids. tokenize has rejected the others, and its report says why."""
    questions = {question.id: question for example in read_examples(texts) for question in example.questions()}
    # the tokenized examples of one question are neighbours, in the order of the questions
    for name, own in groupby(dataset, lambda example: example.id):
        question, examples = questions[name], iter(own)
        first = next(examples)
        if question.source:
            yield _Prompt(question, first.source_ids, False)
        else:
            yield _continuation(question, first, examples, tokenizer, params)


def _continuation(
    question: Question,
    first: TokenizedExample,
    others: Iterator[TokenizedExample],
    tokenizer: PreTrainedTokenizerBase,
    params: Predict,
) -> _Prompt:
    """Free text as a question: the prompt is its first tokens, the reference the next `max_new_tokens`."""
    end = min(params.prefix_tokens, (len(first.target_ids) - 1) // 2)
    prefix = first.target_ids[:end]
    following = chain(first.target_ids[end:], chain.from_iterable(example.target_ids for example in others))
    rest = list(islice(following, params.max_new_tokens))
    is_truncated = next(following, None) is not None
    source, reference = (str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in (prefix, rest))
    return _Prompt(Question(question.id, source, [reference.strip()]), [*first.source_ids, *prefix], is_truncated)


def _losses(network: PreTrainedModel, dataset: TokenizedDataset, batch_size: int) -> dict[str, _Loss]:
    """Id of a question -> loss on its references."""
    losses: dict[str, _Loss] = defaultdict(_Loss)
    for index, nats, tokens in example_losses(network, dataset, batch_size):
        example = dataset[index]
        losses[example.id].nats += nats
        losses[example.id].tokens += tokens
        losses[example.id].bytes += example.target_bytes
    return losses
