"""The predictions of a model for the questions of a test split, and its loss on their references."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.files import read_json
from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Decoded, choose_labels, decode, end_ids, text_of
from stages.lib.models.devices import move_to_own_device
from stages.lib.models.losses import example_losses
from stages.lib.params.predict import Predict
from stages.lib.records.chats import answer_places
from stages.lib.records.examples import Example, Question, answer_id, read_examples
from stages.lib.records.predictions import Prediction
from stages.lib.records.tokenized_examples import Label, TokenizedDataset, TokenizedExample, read_label_ids

_INCOMPLETE = "\ufffd"  # what bytes are decoded as that are no whole character


def predictions_of(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Path,
    ids: Path,
    params: Predict,
    batch_size: int,
    title: str,
) -> list[Prediction]:
    """One for each question of the test split whose source and references were not rejected. Where nobody knows the
    answers of the split, a prediction has no reference and no loss.

    Args:
        texts: folder of the test split's examples.
        ids: folder that tokenize has written.
        batch_size: sources decoded together.
        title: of the stage.

    Raises:
        UserError: there is no such question, or all references are blank; or as `decode` does.
    """
    move_to_own_device(network)
    dataset, labels = TokenizedDataset(ids / "test"), read_label_ids(ids / "label_ids.json")
    prompts = list(_prompts(texts, dataset, network, tokenizer, labels, params))
    if all(_is_blank(prompt.question.references) for prompt in prompts):
        raise UserError(
            f"{title}: no example of the test split can be predicted and compared: all were rejected, or their "
            f"references are blank; see data/tokenize/report/rejected.jsonl and params.yaml -> prepare of the scenario"
        )
    decoded = _decoded(network, tokenizer, [prompt.ids for prompt in prompts], labels, params, batch_size, title)
    losses = _losses(network, dataset, batch_size)
    return [
        Prediction(
            id=prompt.question.id,
            group=prompt.question.group,
            metadata=prompt.question.metadata,
            source=prompt.question.source,
            references=prompt.question.references,
            round_trip=prompt.round_trip,
            prediction=text.text,
            finish_reason=text.finish_reason,
            reference_truncated=prompt.reference_truncated,
            reference_nats=round(losses[prompt.question.id].nats, 6),
            reference_tokens=losses[prompt.question.id].tokens,
            reference_bytes=losses[prompt.question.id].bytes,
        )
        for prompt, text in zip(prompts, decoded, strict=True)
    ]


def prediction_without_input(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Path, params: Predict
) -> str | None:
    """What the model writes where the source is empty. A score that is no better shows that the model does not use its
    input. None where tokenize has written no such prompt.

    Args:
        ids: folder that tokenize has written.
    """
    move_to_own_device(network)
    prompt = read_json(ids / "no_input.json")["source_ids"]
    if prompt is None:
        return None
    labels = read_label_ids(ids / "label_ids.json")
    [decoded] = _decoded(network, tokenizer, [prompt], labels, params, batch_size=1, title=None)
    return decoded.text


def _is_blank(references: Sequence[str]) -> bool:
    return bool(references) and not any(reference.strip() for reference in references)


@dataclass(frozen=True)
class _Prompt:
    question: Question
    ids: list[int]  # the input of generation
    round_trip: str
    reference_truncated: bool  # whether a document continues after its reference


@dataclass
class _Loss:
    """Summed over the references of one question."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0


def _prompts(
    texts: Path,
    dataset: TokenizedDataset,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[Label],
    params: Predict,
) -> Iterator[_Prompt]:
    """For the questions that have ids. tokenize has rejected the others, and its report says why."""
    questions, of_template = dict[str, Question](), set[str]()
    for example in read_examples(texts):
        questions |= {question.id: question for question in example.questions()}
        of_template |= _written_by_template(example)
    # the tokenized examples of one question are neighbours, in the order of the questions
    for name, own in groupby(dataset, lambda example: example.id):
        question, examples = questions[name], list(own)
        if question.source:
            target = examples[0].target_ids if labels else _first_target(examples, end_ids(network.generation_config))
            round_trip = text_of(tokenizer, labels, target)
            asked = replace(question, references=[round_trip]) if name in of_template else question
            yield _Prompt(asked, examples[0].source_ids, round_trip, False)
        else:
            yield _continuation(question, examples, tokenizer, params)


def _written_by_template(example: Example) -> set[str]:
    """The ids of its questions whose answer has thoughts or calls of tools. Each chat template has its own form for
    these, so the reference is what the template has made of the answer."""
    answers = (example.turns[place] for place in answer_places(example.turns))
    return {answer_id(example.id, number) for number, turn in enumerate(answers) if turn.written() != turn.text}


def _first_target(examples: Sequence[TokenizedExample], ends: set[int]) -> list[int]:
    """All ids of the first target. If it was split, only its last piece has an end token, before a language's code."""
    ids = list[int]()
    for example in examples:
        ids += example.target_ids
        if not ends.isdisjoint(ids[-2:]):
            break
    return ids


def _continuation(
    question: Question, examples: Sequence[TokenizedExample], tokenizer: PreTrainedTokenizerBase, params: Predict
) -> _Prompt:
    """Free text as a question: the prompt is its first tokens, the reference the next `max_new_tokens`."""
    first = examples[0]
    end = min(params.prefix_tokens, (len(first.target_ids) - 1) // 2)
    while end < len(first.target_ids) // 2 and _text(tokenizer, first.target_ids[:end]).endswith(_INCOMPLETE):
        end += 1
    prefix = first.target_ids[:end]
    following = islice(chain.from_iterable(example.target_ids for example in examples), end, None)
    rest = list(islice(following, params.max_new_tokens))
    is_truncated = next(following, None) is not None
    source, reference = _text(tokenizer, prefix), _text(tokenizer, rest)
    reference = (reference.rstrip(_INCOMPLETE) if is_truncated else reference).strip()
    asked = replace(question, source=source, references=[reference])
    return _Prompt(asked, [*first.source_ids, *prefix], reference, is_truncated)


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _decoded(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[list[int]],
    labels: Sequence[Label],
    params: Predict,
    batch_size: int,
    title: str | None,
) -> list[Decoded]:
    if labels:
        return choose_labels(network, sources, labels, batch_size, title)
    return decode(network, tokenizer, sources, params, batch_size, title)


def _losses(network: PreTrainedModel, dataset: TokenizedDataset, batch_size: int) -> dict[str, _Loss]:
    """Id of a question -> loss on its references: 0 where nobody knows the answers of the split."""
    losses: dict[str, _Loss] = defaultdict(_Loss)
    if not dataset.target_tokens():
        return losses
    for index, nats, tokens in example_losses(network, dataset, batch_size):
        example = dataset[index]
        losses[example.id].nats += nats
        losses[example.id].tokens += tokens
        losses[example.id].bytes += example.target_bytes
    return losses
