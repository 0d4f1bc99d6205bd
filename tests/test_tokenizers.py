"""Tokenizers of the families: special tokens around sources and targets, and the start and end of a decoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MarianTokenizer,
    MBartTokenizer,
    PreTrainedTokenizerBase,
)

from stages.lib.checkpoint.architecture import model_family
from stages.lib.checkpoint.tokenizers import END, START, load_checkpoint_tokenizer, train_tokenizer
from stages.lib.core.process import UserError
from stages.lib.encoding.encoder import Encoder
from stages.lib.models.loading import base_model
from stages.lib.params.model import Family, Model
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.examples import Example
from stages.lib.records.tokenized_examples import TokenizedExample
from tests import tiny
from tests.build import scratch_model, section

TEXTS = ["the old fox is in the house by the river", "der alte Fuchs ist im Haus am Fluss"] * 20
SOURCE, TARGET = "the old fox", "der alte Fuchs"
SIZES = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
SIZES |= {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}


def encoded(tokens: PreTrainedTokenizerBase, family: Family, labels: list[str] | None = None) -> TokenizedExample:
    encoder = Encoder(tokens, section(Tokenize, prompt="{source}"), family, labels or [])
    (found,) = encoder.encoded([Example("only", SOURCE, [(labels or [TARGET])[-1]])])
    (example,) = found.tokenized
    return example


def shown(tokens: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokens.decode(ids)).replace(" <", "<").replace("> ", ">")


@pytest.mark.parametrize(
    ("family", "source", "target"),
    [
        ("causal", SOURCE, f"{TARGET}{END}"),
        ("seq2seq", f"{SOURCE}{END}", f"{TARGET}{END}"),
        ("encoder", f"{START}{SOURCE}{END}", f"{TARGET}{END}"),
    ],
)
def test_a_new_vocabulary_has_the_special_tokens_of_its_family(family: Family, source: str, target: str) -> None:
    tokens = train_tokenizer(TEXTS, 300, family)
    example = encoded(tokens, family)
    assert (shown(tokens, example.source_ids), shown(tokens, example.target_ids)) == (source, target)


def test_a_label_is_a_number_for_a_classifier_and_text_for_a_causal_model() -> None:
    labels = ["bad", "fair", "good"]
    assert encoded(train_tokenizer(TEXTS, 300, "encoder"), "encoder", labels).target_ids == [2]
    tokens = train_tokenizer(TEXTS, 300, "causal")
    assert shown(tokens, encoded(tokens, "causal", labels).target_ids) == f"good{END}"


def test_splits_at_whitespace_keep_a_word_with_punctuation_in_one_piece() -> None:
    texts = ["call resto_paris_1-star now , i'm in"] * 50
    whitespace = train_tokenizer(texts, 400, "causal", "whitespace")
    words = train_tokenizer(texts, 400, "causal", "words")
    assert len(whitespace.tokenize(" resto_paris_1-star")) == 1
    assert len(words.tokenize(" resto_paris_1-star")) > 3
    assert all(tokens.decode(tokens(texts[0])["input_ids"]) == texts[0] for tokens in (whitespace, words))


def save_marian(folder: Path) -> Path:
    """Two sentencepiece models and a vocabulary for both, as those of Helsinki-NLP; the tokenizer is slow."""
    folder.mkdir()
    for name in ("source", "target"):
        with (folder / f"{name}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXTS), model_writer=file, vocab_size=60, hard_vocab_limit=False, minloglevel=2
            )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    named = ["</s>", "<unk>", *(pieces.id_to_piece(number) for number in range(3, pieces.get_piece_size())), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(named)}))
    parts: Any = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    MarianTokenizer(*parts).save_pretrained(folder)
    ids = {"pad_token_id": len(named) - 1, "eos_token_id": 0, "decoder_start_token_id": len(named) - 1}
    return save_network(folder, "marian", vocab_size=len(named), **ids)


def save_mbart(folder: Path) -> Path:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    pieces = [tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"] if piece[0] != "<unk>"]
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces]
    tokens = MBartTokenizer(vocab=vocab, src_lang="en_XX", tgt_lang="de_DE")
    tokens.save_pretrained(folder)
    return save_network(folder, "mbart", vocab_size=len(tokens), pad_token_id=1, eos_token_id=2, bos_token_id=0)


def save_network(folder: Path, model_type: str, **settings: Any) -> Path:
    config = AutoConfig.for_model(model_type, **SIZES, **settings)
    torch.manual_seed(1)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return folder


def checkpoint_in(folder: Path) -> Model:
    return section(Model, folder=str(folder), architecture="checkpoint", scratch=None)


def test_marian_encodes_sources_and_targets_with_its_two_vocabularies(tmp_path: Path) -> None:
    model = checkpoint_in(save_marian(tmp_path / "marian"))
    assert model_family(model) == "seq2seq"
    tokens = load_checkpoint_tokenizer(model)
    own: Any = AutoTokenizer.from_pretrained(tmp_path / "marian")
    example = encoded(tokens, "seq2seq")
    assert example.source_ids == own(SOURCE)["input_ids"]
    assert example.target_ids == own(text_target=TARGET)["input_ids"]
    network: Any = base_model(model, tokens, [], None, 1)
    assert network.generation_config.decoder_start_token_id == tokens.pad_token_id
    assert network.generation_config.forced_bos_token_id is None
    written = network.generate(torch.tensor([example.source_ids]), max_new_tokens=8)[0].tolist()
    assert written[0] == tokens.pad_token_id
    assert tokens.pad_token_id not in written[1:]


def test_mbart_ends_each_side_with_its_language_and_starts_with_that_of_the_target(tmp_path: Path) -> None:
    model = checkpoint_in(save_mbart(tmp_path / "mbart"))
    tokens = load_checkpoint_tokenizer(model, "en_XX", "de_DE")
    example = encoded(tokens, "seq2seq")
    english, german, end = (tokens.convert_tokens_to_ids(name) for name in ("en_XX", "de_DE", "</s>"))
    assert example.source_ids[-2:] == [end, english]
    assert example.target_ids[-2:] == [end, german]
    network: Any = base_model(model, tokens, [], None, 1)
    # in training and in generation, the decoder starts from the language
    before = network.prepare_decoder_input_ids_from_labels(labels=torch.tensor([example.target_ids]))[0]
    assert before[0].item() == german
    assert network.generation_config.decoder_start_token_id == german


def test_a_saved_tokenizer_keeps_the_chosen_languages(tmp_path: Path) -> None:
    model = checkpoint_in(save_mbart(tmp_path / "mbart"))
    load_checkpoint_tokenizer(model, "de_DE", "en_XX").save_pretrained(tmp_path / "saved")
    opened: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert opened.src_lang == "de_DE"
    assert opened.tgt_lang == "en_XX"


@pytest.mark.parametrize(
    ("source", "target", "line"),
    [
        ("en_XX", "xx_XX", "the tokenizer in .* knows no language xx_XX"),
        ("english", "de_DE", "the tokenizer in .* knows no language english"),
    ],
)
def test_an_unknown_language_is_reported_in_one_line(source: str, target: str, line: str, tmp_path: Path) -> None:
    model = checkpoint_in(save_mbart(tmp_path / "mbart"))
    with pytest.raises(UserError, match=line) as error:
        load_checkpoint_tokenizer(model, source, target)
    assert len(error.value.lines) == 1


def test_languages_for_a_tokenizer_without_languages_are_refused(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 300, "causal").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    model = checkpoint_in(tmp_path)
    with pytest.raises(UserError, match=r"tokenize -> languages: the tokenizer in .* has no languages to choose"):
        load_checkpoint_tokenizer(model, "en_XX", "de_DE")


def test_a_classifier_has_the_names_of_its_labels() -> None:
    tokens = train_tokenizer(TEXTS, 300, "encoder")
    network = base_model(scratch_model(tiny.ARCHITECTURES["bert"][0]), tokens, ["bad", "good"], None, 1)
    assert network.config.id2label == {0: "bad", 1: "good"}


def test_bert2bert_starts_with_cls_ends_with_sep_and_has_no_loss_on_pads() -> None:
    """The usual mistakes with bert2bert are a wrong start and a wrong end."""
    tokens = train_tokenizer(TEXTS, 300, "encoder")
    network: Any = base_model(scratch_model(tiny.ARCHITECTURES["bert"][0]), tokens, [], None, 1)
    for config in (network.config, network.generation_config):
        assert config.decoder_start_token_id == tokens.cls_token_id
        assert config.eos_token_id == tokens.sep_token_id
        assert config.pad_token_id == tokens.pad_token_id
    assert network.config.decoder.is_decoder
    assert network.config.decoder.add_cross_attention
    example = encoded(tokens, "encoder")
    before = network.prepare_decoder_input_ids_from_labels(labels=torch.tensor([example.target_ids]))[0].tolist()
    assert before == [tokens.cls_token_id, *example.target_ids[:-1]]
