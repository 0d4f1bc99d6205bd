"""The loss of a causal model on plain texts: on general text, which shows what fine-tuning has made it forget, and on
predictions, which shows how fluent they are.

A text is read in windows that overlap by half: each token is predicted from at least half a window of the text before
it (the first ones from all that there is), and counts once. So a text of any length has one loss.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import max_positions
from stages.lib.checkpoint.tokenizers import load_checkpoint_tokenizer
from stages.lib.generation.language_model import general_texts
from stages.lib.generation.parts import Parts, Record
from stages.lib.generation.predicting import place_for_predicting
from stages.lib.models.cost import cost
from stages.lib.models.devices import own_device, peak_memory
from stages.lib.models.loading import base_model
from stages.lib.models.losses import ExampleLosses
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.records.predictions import Prediction
from stages.lib.records.text_losses import Fluency, WindowLoss
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample, write_tokenized_examples

_LONGEST_WINDOW = 1024  # tokens; a longer one costs more and hardly predicts better
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}  # more at once is no faster


def general_text_losses(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    model: Model,
    params: Predict,
    batch_tokens: int | None,
    folder: Path,
    title: str,
) -> list[WindowLoss]:
    """Of each window of the general texts; none where `params` does not ask for them. Several processes share the work,
    and only the main one returns losses. The network is on its device.

    Args:
        model: the one that was trained, or is to be.
        batch_tokens: of windows that are computed together; null: as many as are fast.
        folder: of the resumable state.
        title: of the stage.

    Raises:
        UserError: as `general_texts`.
    """
    if not params.general_text:
        return []
    windows = list(_windows(network, tokenizer, general_texts(model, params)))
    parts = _parts(network, windows, batch_tokens, folder / "general_text", f"{title}: general text")
    tokens, seconds = sum(len(window.target_ids) for window in windows), parts.seconds_left()
    print(f"{title}: general text of {tokens:,} tokens; {cost(seconds, peak_memory())}", flush=True)
    return [
        WindowLoss(windows[number].id, round(found["nats"], 6), windows[number].target_bytes)
        for number, found in sorted(parts.results().items())
    ]


def fluency_losses(
    predictions: Sequence[Prediction], model: Model, params: Predict, batch_tokens: int | None, folder: Path
) -> list[Fluency]:
    """Of each prediction, by a causal model as `fluency_model` names it. One process does all of it.

    Raises:
        UserError: the model can't be loaded.
    """
    tokenizer = load_checkpoint_tokenizer(model)
    network = base_model(model, tokenizer, (), dropout=None, seed=0)
    place_for_predicting(network, params, "predict")
    written = [own.prediction for own in predictions]
    references = [own.references[0] if own.references else "" for own in predictions]
    texts = dict.fromkeys(chain(written, references))
    windows = list(_windows(network, tokenizer, {text: text for text in texts}))
    parts = _parts(network, windows, batch_tokens, folder / "fluency", "predict: fluency", is_shared=False)
    print(f"predict: fluency of {len(texts):,} texts; {cost(parts.seconds_left(), peak_memory())}", flush=True)
    losses = parts.results()
    nats, size = dict.fromkeys(texts, 0.0), dict.fromkeys(texts, 0)
    for number, window in enumerate(windows):
        nats[window.id] += losses[number]["nats"]
        size[window.id] += window.target_bytes
    return [
        Fluency(own.id, round(nats[text], 6), size[text], round(nats[reference], 6), size[reference])
        for own, text, reference in zip(predictions, written, references, strict=True)
    ]


def _windows(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, str]
) -> Iterator[TokenizedExample]:
    """Those of each text: the tokens with loss as the target, those before them as the source. Their id is the name of
    the text."""
    half = min(_LONGEST_WINDOW, max_positions(network.config) or _LONGEST_WINDOW) // 2
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    for name, text in texts.items():
        encoded = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, **options)
        ids, begin = list(encoded["input_ids"]), 0
        for first in range(0, len(ids), half):
            last = min(first + half, len(ids))
            end = _end(text, encoded, last)
            before = ids[max(first - half, 0) : first] or [start]
            yield TokenizedExample(name, before, ids[first:last], [], len(text[begin:end].encode("utf-8", "replace")))
            begin = end


def _end(text: str, encoded: Mapping[str, Any], tokens: int) -> int:
    """Where the first tokens of a text end, in characters. A slow tokenizer does not say: its tokens count as equally
    long."""
    every = len(encoded["input_ids"])
    if tokens == every:
        return len(text)
    return int(encoded["offset_mapping"][tokens - 1][1] if "offset_mapping" in encoded else len(text) * tokens / every)


def _parts(
    network: PreTrainedModel,
    windows: Sequence[TokenizedExample],
    batch_tokens: int | None,
    folder: Path,
    title: str,
    is_shared: bool = True,
) -> Parts:
    """The loss on each window."""
    sizes = [len(window.source_ids) + len(window.target_ids) for window in windows]
    if not windows:
        return Parts(folder, title, "windows", [], sizes, lambda part: [])
    losses = ExampleLosses(network, _dataset(windows), max_tokens=batch_tokens or _BATCH_TOKENS[own_device().type])

    def of_part(part: Sequence[int]) -> list[Record]:
        return [{"nats": nats} for nats, _ in losses(part)]

    return Parts(folder, title, "windows", losses.parts, sizes, of_part, is_shared)


def _dataset(examples: Sequence[TokenizedExample]) -> TokenizedDataset:
    with TemporaryDirectory() as folder:
        write_tokenized_examples(Path(folder), [examples])
        return TokenizedDataset(Path(folder))
