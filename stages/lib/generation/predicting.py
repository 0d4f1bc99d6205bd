"""The predictions of a model for the questions of a test split, and its loss on their references."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.process import UserError, is_main_process
from stages.lib.generation.decoding import Decoded, Decoder, Prompt, text_of, to_bfloat16
from stages.lib.generation.parts import Parts, Record
from stages.lib.generation.settings import end_ids
from stages.lib.generation.vllm_decoder import VllmDecoder
from stages.lib.models.cost import cost
from stages.lib.models.devices import own_device, peak_memory, place_network, uses_bfloat16
from stages.lib.models.loading import parameter_count
from stages.lib.models.losses import ExampleLosses
from stages.lib.params.predict import Predict
from stages.lib.records.chats import answer_places
from stages.lib.records.examples import Example, Question, answer_id, read_examples
from stages.lib.records.predictions import Candidate, Prediction
from stages.lib.records.tokenized_examples import Label, TokenizedDataset, TokenizedExample, read_label_ids

_REFERENCE_TOKENS = {"cpu": 2048, "cuda": 32_768}  # more at once is no faster
_INCOMPLETE = "\ufffd"  # what bytes are decoded as that are no whole character


def place_for_predicting(network: PreTrainedModel, params: Predict, title: str) -> None:
    """In the precision of `params`, on the device of this process. Once, before all else.

    Raises:
        UserError: as `place_network`.
    """
    if uses_bfloat16(params.precision, "predict"):
        to_bfloat16(network)  # now, so that half as much needs a place
    place_network(network, title)


class Predicted(NamedTuple):
    """The predictions for test and for validation, and what the model writes where the source is empty."""

    test: list[Prediction]
    validation: list[Prediction]
    no_input: str | None


def predictions_of(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Path,
    ids: Path,
    params: Predict,
    batch_tokens: int | None,
    folder: Path,
    title: str,
    no_input: list[int] | None = None,
    validation: Path | None = None,
) -> Predicted:
    """One for each question of the test split whose source and references were not rejected, and what the model writes
    for `no_input`. Where nobody knows the answers of the split, a prediction has no reference and no loss.

    Several processes share the work, and only the main one returns predictions.

    Args:
        network: on its device, in its precision (`place_for_predicting`).
        texts: folder of the test split's examples.
        ids: folder that tokenize has written.
        batch_tokens: of sources and texts, or references, that are computed together; null: as many as are fast.
        folder: of the resumable state.
        title: of the stage.
        no_input: the prompt where the source is empty. A score that is no better than that of its text shows that the
            model does not use its input.
        validation: folder of the validation split's examples, if they are wanted; their predictions have no loss.

    Raises:
        UserError: there is no such question, or all references are blank; or as `Decoder` and `ExampleLosses` do.
    """
    dataset, labels = TokenizedDataset(ids / "test"), read_label_ids(ids / "label_ids.json")
    prompts = list(_prompts(texts, dataset, network, tokenizer, labels, params))
    if all(_is_blank(prompt.question.references) for prompt in prompts):
        raise UserError(
            f"{title}: no example of the test split can be predicted and compared: all were rejected, or their "
            f"references are blank; see data/tokenize/report/rejected.jsonl and params.yaml -> prepare of the scenario"
        )
    others = list[_Prompt]()
    if validation is not None:
        others += _prompts(validation, TokenizedDataset(ids / "validation_answers"), network, tokenizer, labels, params)
    asked = [Prompt(prompt.ids, prompt.question.id) for prompt in (*prompts, *others)]
    asked += [] if no_input is None else [Prompt(no_input, "")]
    decoding = _decoding(network, tokenizer, asked, labels, params, batch_tokens, folder, title)
    on_references = _losses(network, dataset, batch_tokens, folder, title)
    if params.engine == "vllm":  # it takes the place of the network
        on_references.results()
    seconds = decoding.seconds_left() + on_references.seconds_left()
    plan = _plan(network, len(prompts) + len(others), dataset, labels, params)
    print(f"{title}: {plan}; {cost(seconds, peak_memory())}", flush=True)
    decoded, losses = decoding.results(), on_references.results()
    if not is_main_process():
        return Predicted([], [], None)
    of_question = _by_question(dataset, losses)
    predictions = [
        _prediction(prompt, decoded[place], of_question[prompt.question.id]) for place, prompt in enumerate(prompts)
    ]
    on_validation = [
        _prediction(prompt, decoded[place], _Loss()) for place, prompt in enumerate(others, start=len(prompts))
    ]
    without_input = None if no_input is None else decoded[len(asked) - 1]["prediction"]
    return Predicted(predictions, on_validation, without_input)


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


def _decoding(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    labels: Sequence[Label],
    params: Predict,
    batch_tokens: int | None,
    folder: Path,
    title: str,
) -> Parts:
    if params.engine == "vllm" and not labels:
        decoder: Decoder | VllmDecoder = VllmDecoder(network, tokenizer, prompts, params)
    else:
        decoder = Decoder(network, tokenizer, prompts, labels, params, batch_tokens)
    sizes = [len(prompt.ids) + (0 if labels else params.max_new_tokens) for prompt in prompts]

    def texts(part: Sequence[int]) -> list[Record]:
        return [_record(decoded, bool(labels)) for decoded in decoder.decode(part)]

    return Parts(folder, title, "texts", decoder.parts, sizes, texts)


def _record(decoded: Decoded, is_label: bool) -> Record:
    """The fields of a prediction that come from its text."""
    return {
        "prediction": decoded.text,
        "finish_reason": decoded.finish_reason,
        "confidence": _confidence(decoded, is_label),
        "prediction_tokens": 1 if is_label else decoded.tokens,
        "candidates": [
            Candidate(text=each.text, confidence=_confidence(each, is_label)) for each in decoded.candidates
        ],
    }


def _confidence(decoded: Decoded, is_label: bool) -> float:
    """Rounded to what does not depend on the batch."""
    return round(decoded.log_probability / (1 if is_label else decoded.tokens), 4)


def _losses(
    network: PreTrainedModel,
    dataset: TokenizedDataset,
    batch_tokens: int | None,
    folder: Path,
    title: str,
) -> Parts:
    """On each reference; none where nobody knows the answers of the split."""
    sizes = dataset.lengths().tolist()
    if not dataset.target_tokens():
        return Parts(folder, f"{title}: losses", "references", [], sizes, lambda part: [])
    losses = ExampleLosses(network, dataset, max_tokens=batch_tokens or _REFERENCE_TOKENS[own_device().type])

    def of_part(part: Sequence[int]) -> list[Record]:
        return [{"nats": nats, "tokens": tokens} for nats, tokens in losses(part)]

    return Parts(folder, f"{title}: losses", "references", losses.parts, sizes, of_part)


def _plan(
    network: PreTrainedModel,
    count: int,
    dataset: TokenizedDataset,
    labels: Sequence[Label],
    params: Predict,
) -> str:
    texts = f"among {len(labels)} labels" if labels else f"of at most {params.max_new_tokens} tokens"
    tokens = dataset.target_tokens()
    references = f", references of {tokens:,} tokens" if tokens else ""
    return f"{parameter_count(network):,} parameters, {count:,} texts {texts}{references}"


def _by_question(dataset: TokenizedDataset, losses: Mapping[int, Record]) -> dict[str, _Loss]:
    """Id of a question -> loss on its references: 0 where nobody knows the answers of the split."""
    of_question: dict[str, _Loss] = defaultdict(_Loss)
    for index, found in losses.items():
        example = dataset[index]
        own = of_question[example.id]
        own.nats += found["nats"]
        own.tokens += found["tokens"]
        own.bytes += example.target_bytes
    return of_question


def _prediction(prompt: _Prompt, decoded: Record, loss: _Loss) -> Prediction:
    question = prompt.question
    return Prediction(
        id=question.id,
        group=question.group,
        metadata=question.metadata,
        source=question.source,
        references=question.references,
        round_trip=prompt.round_trip,
        reference_truncated=prompt.reference_truncated,
        reference_nats=round(loss.nats, 6),
        reference_tokens=loss.tokens,
        reference_bytes=loss.bytes,
        **decoded,
    )
