"""Tokenizers: loaded with a pretrained model or trained on the train split, their special tokens wired and checked."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.params.model import Model
from stages.lib.process import UserError

END, PAD = "<|end|>", "<|pad|>"


def train_vocabulary(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE (Sennrich et al. 2016, over bytes as in Radford et al. 2019): no text is ever unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def load_vocabulary(model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained model, with an end and a pad token of its own added where it has none.

    Padding with the end token, as many recipes do, is harmless here only as long as nobody masks by token id;
    a token of its own can't go wrong.

    Raises:
        UserError: no tokenizer in the folder or under the name.
    """
    place, revision = model_place(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"model: no tokenizer in {place}: {first_line(error)}") from None
    # transformers makes up an empty tokenizer for a folder that holds none
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"model: no tokenizer in {place}; save the model's own beside its weights")
    if tokenizer.eos_token_id is None:
        tokenizer.add_special_tokens({"eos_token": END})
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def open_vocabulary(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the tokenize stage, or a trained model, has saved."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def model_place(model: Model) -> tuple[str, str | None]:
    """Where `from_pretrained` looks: (local folder, None) or (name on the hub, revision).

    Raises:
        UserError: the folder is missing or holds no checkpoint.
    """
    if model.name != "folder":
        return model.name, model.revision
    folder = Path(model.folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"model -> folder: no config.json in {folder}: not the folder of a checkpoint")
    return str(folder), None


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
