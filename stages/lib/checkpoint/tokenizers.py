"""Tokenizers: of a pretrained model, or trained on the train split; with an end and a pad token."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.checkpoint.config import checkpoint_path, loading_options, unloadable
from stages.lib.core.files import read_json
from stages.lib.core.process import UserError
from stages.lib.params.model import Family, Model, PreTokenizer

PAD, START, END, MASK = "<|pad|>", "<|start|>", "<|end|>", "<|mask|>"

# the special tokens that models of a family expect around a text
_AROUND: dict[Family, str] = {"causal": "$A", "seq2seq": f"$A {END}", "encoder": f"{START} $A {END}"}


def train_tokenizer(
    texts: Iterable[str], size: int, family: Family, pre_tokenizer: PreTokenizer = "words"
) -> PreTrainedTokenizerBase:
    """Byte-level BPE (Sennrich et al. 2016; over bytes as in Radford et al. 2019). It has no unknown tokens."""
    tokens = {"causal": [PAD, END], "seq2seq": [PAD, END], "encoder": [PAD, START, END, MASK]}[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(pre_tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in tokens]
    tokenizer.post_processor = processors.TemplateProcessing(single=_AROUND[family], special_tokens=ids)
    wired = {"eos_token": END, "pad_token": PAD}
    if family == "encoder":
        wired |= {"bos_token": START, "cls_token": START, "sep_token": END, "mask_token": MASK}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **wired)


def _pre_tokenizer(name: PreTokenizer) -> Any:
    if name == "words":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    whitespace = pre_tokenizers.Split(Regex(r" ?\S+|\s"), "isolated")
    return pre_tokenizers.Sequence([whitespace, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def load_checkpoint_tokenizer(
    model: Model, source_language: str | None = None, target_language: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained model. An end token and a pad token are added if it has none.

    Many recipes pad with the end token; code that masks by token id would then mask the end of the target too. An
    encoder's [CLS] and [SEP] are its start and end.

    Raises:
        UserError: no tokenizer in the folder or of that name, or no such language.
    """
    place = checkpoint_path(model)
    named = {"src_lang": source_language, "tgt_lang": target_language}
    chosen = {name: language for name, language in named.items() if language is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **loading_options(model), **chosen)
    except (OSError, ValueError, KeyError) as error:
        raise unloadable(place, error) from None
    # transformers makes an empty tokenizer for a folder without one
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"model: no tokenizer in {place}; save the model's own beside its weights")
    _undo_export(tokenizer, Path(place))
    _check_languages(tokenizer, chosen, place)
    _wire(tokenizer)
    return tokenizer


def load_frozen_tokenizer(folder: Path, family: Family) -> PreTrainedTokenizerBase:
    """A tokenizer without a model, for random weights of this family.

    Raises:
        UserError: there is none in the folder, or it has no start token, which an encoder needs.
    """
    place = f"model -> folder: {folder}"
    try:
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError, KeyError):
        tokenizer = None
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(
            f"{place} has no tokenizer, which `vocabulary_size: null` takes; copy data/tokenize/tokenizer there, or "
            f"give the size of a new vocabulary"
        )
    _wire(tokenizer)
    if family == "encoder" and tokenizer.bos_token_id is None:
        raise UserError(f"{place} has a tokenizer without a start token, which an encoder needs")
    return tokenizer


def _undo_export(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The chat template of an exported model writes the prompt of its task. Its settings have the one of before."""
    path = folder / "settings.json"
    if path.is_file() and "chat_template" in (settings := read_json(path)):
        tokenizer.chat_template = settings["chat_template"]
        tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = False


def _check_languages(tokenizer: PreTrainedTokenizerBase, chosen: dict[str, str], place: str) -> None:
    if unknown := [name for name in chosen if not hasattr(tokenizer, name)]:
        raise UserError(f"tokenize -> languages: the tokenizer in {place} has no languages to choose ({unknown[0]})")
    if hasattr(tokenizer, "src_lang") and len(chosen) < 2:
        raise UserError(f"tokenize -> languages: the tokenizer in {place} needs a language for source and for target")
    known = {*tokenizer.all_special_tokens, *(token.content for token in tokenizer.added_tokens_decoder.values())}
    if lines := [
        f"tokenize -> languages: the tokenizer in {place} knows no language {language}"
        for language in chosen.values()
        if language not in known and f"__{language}__" not in known  # as M2M100 writes them
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


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the tokenize stage, or a trained model, has saved."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def target_from(ids: list[int], tokenizer: PreTrainedTokenizerBase, family: Family) -> list[int]:
    """The target of a text that the tokenizer has encoded with its special tokens. It has an end token. An encoder's
    start token is left out: its decoder starts from it, and does not predict it."""
    if family == "encoder" and ids and ids[0] == tokenizer.bos_token_id:
        ids = ids[1:]
    # the code of the language may follow the end token, as in mBART
    return ids if tokenizer.eos_token_id in ids[-2:] else [*ids, tokenizer.eos_token_id]
