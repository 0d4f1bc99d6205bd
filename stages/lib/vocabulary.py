"""Tokenizers: loaded with a pretrained model or trained on the train split, their special tokens wired and checked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.params.model import Kind, Model
from stages.lib.process import UserError

Splits = Literal["words", "blanks"]

PAD, START, END, MASK = "<|pad|>", "<|start|>", "<|end|>", "<|mask|>"

PICKLED = "pickled ones are refused: load them once where you trust them, and save them with save_pretrained"

# what a tokenizer puts around a text, as models of that kind expect it
_AROUND: dict[Kind, str] = {"causal": "$A", "seq2seq": f"$A {END}", "encoder": f"{START} $A {END}"}


def train_vocabulary(texts: Iterable[str], size: int, kind: Kind, splits: Splits = "words") -> PreTrainedTokenizerBase:
    """Byte-level BPE (Sennrich et al. 2016, over bytes as in Radford et al. 2019): no text is ever unknown to it."""
    tokens = {"causal": [PAD, END], "seq2seq": [PAD, END], "encoder": [PAD, START, END, MASK]}[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(splits)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in tokens]
    tokenizer.post_processor = processors.TemplateProcessing(single=_AROUND[kind], special_tokens=ids)
    wired = {"eos_token": END, "pad_token": PAD}
    if kind == "encoder":
        wired |= {"bos_token": START, "cls_token": START, "sep_token": END, "mask_token": MASK}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **wired)


def _pre_tokenizer(splits: Splits) -> Any:
    if splits == "words":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    blanks = pre_tokenizers.Split(Regex(r" ?\S+|\s"), "isolated")
    return pre_tokenizers.Sequence([blanks, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def load_vocabulary(
    model: Model, source_language: str | None = None, target_language: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained model, with an end and a pad token of its own added where it has none.

    Padding with the end token, as many recipes do, is harmless here only as long as nobody masks by token id;
    a token of its own can't go wrong. An encoder's [CLS] and [SEP] are its start and end.

    Raises:
        UserError: no tokenizer in the folder or under the name, or no such language.
    """
    place = checkpoint_place(model)
    named = {"src_lang": source_language, "tgt_lang": target_language}
    chosen = {name: language for name, language in named.items() if language is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **loading_options(model), **chosen)
    except (OSError, ValueError, KeyError) as error:
        raise unloadable(place, error) from None
    # transformers makes up an empty tokenizer for a folder that holds none
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"model: no tokenizer in {place}; save the model's own beside its weights")
    _check_languages(tokenizer, chosen, place)
    _wire(tokenizer)
    return tokenizer


def _check_languages(tokenizer: PreTrainedTokenizerBase, chosen: dict[str, str], place: str) -> None:
    if unknown := [name for name in chosen if not hasattr(tokenizer, name)]:
        raise UserError(f"tokenize -> languages: the tokenizer in {place} has no languages to choose ({unknown[0]})")
    if hasattr(tokenizer, "src_lang") and len(chosen) < 2:
        raise UserError(f"tokenize -> languages: the tokenizer in {place} wants a language for source and for target")
    known = {*tokenizer.all_special_tokens, *(token.content for token in tokenizer.added_tokens_decoder.values())}
    if lines := [
        f"tokenize -> languages: the tokenizer in {place} knows no language {language}"
        for language in chosen.values()
        if language not in known and f"__{language}__" not in known  # the latter is how M2M100 writes them
    ]:
        raise UserError(lines)


def _wire(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.bos_token_id is None and tokenizer.cls_token_id is not None:
        tokenizer.bos_token = tokenizer.cls_token
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token_id is None:
        tokenizer.add_special_tokens({"eos_token": END})
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})


def open_vocabulary(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the tokenize stage, or a trained model, has saved."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def target_from(ids: list[int], tokenizer: PreTrainedTokenizerBase, kind: Kind) -> list[int]:
    """What is learned of a text that the tokenizer has encoded with its special tokens: an encoder's start token is
    where its decoder starts from, and no part of what it writes; an end token there must be."""
    if kind == "encoder" and ids and ids[0] == tokenizer.bos_token_id:
        ids = ids[1:]
    # the code of the language may follow the end token, as in mBART
    return ids if tokenizer.eos_token_id in ids[-2:] else [*ids, tokenizer.eos_token_id]


def checkpoint_place(model: Model) -> str:
    """Raises UserError where a local folder is missing or holds no checkpoint."""
    if model.name == "folder" and not (Path(model.folder) / "config.json").is_file():
        raise UserError(f"model -> folder: no config.json in {model.folder}: not the folder of a checkpoint")
    return model.place()


def loading_options(model: Model) -> dict[str, Any]:
    """For every `from_pretrained` of this model. Code that comes with a checkpoint runs only where it is asked for."""
    revision = None if model.name == "folder" else model.revision
    return {"revision": revision, "trust_remote_code": model.remote_code_of is not None}


def unloadable(place: str, error: Exception) -> UserError:
    """What transformers could not load, in one line with the way out where it is known."""
    text = str(error)
    if "trust_remote_code" in text:
        return UserError(
            f"model: {place} brings code of its own; where you trust it, set model.remote_code_of to {place}"
        )
    way_out = f"; {PICKLED}" if "safetensors" in text else ""
    return UserError(f"model: can't load {place}: {first_line(error)}{way_out}")


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
