"""Texts as ids: the same that the tokenizer gives, and what becomes of texts that are too long."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.encoding import Encoded, Encoder
from stages.lib.examples import Example
from stages.lib.pairs import Pair
from stages.lib.params.tokenize import Tokenize
from stages.lib.vocabulary import train_vocabulary
from tests.build import section

CORPUS = ["the fox is in the house by the river", "this house is old, that river is wide", "where is the old fox?"] * 5
EMOJI = "\N{FOX FACE}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
TEXTS = [
    "the old fox  is\tin the\n\nhouse",
    "Zażółć gęślą jaźń, \u4e2d\u6587 e\u0301",
    f"two {EMOJI} of them",
    "write <|end|> or </s> or [SEP] or <|pad|> <s> here",
    " ",
]
PROMPT = "Q: {source}\nA:"


@cache
def byte_level() -> PreTrainedTokenizerBase:
    return train_vocabulary(CORPUS, 320, "causal")


def like_llama() -> PreTrainedTokenizerBase:
    """Byte fallback, a blank put before every text, a start token but no end token around it."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, max_token_length=7, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return framed(backend, "<s> $A", unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def like_t5() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return framed(backend, "$A </s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def like_bert() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return framed(backend, "[CLS] $A [SEP]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]")


def not_fast() -> PreTrainedTokenizerBase:
    return ByT5Tokenizer()


def framed(backend: Tokenizer, frame: str, **names: str) -> PreTrainedTokenizerBase:
    specials = [(part, backend.token_to_id(part)) for part in frame.split() if part != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=frame, special_tokens=specials)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


KINDS = [byte_level, like_llama, like_t5, like_bert, not_fast]
every_kind = pytest.mark.parametrize("kind", KINDS)


def encode(tokenizer: PreTrainedTokenizerBase, source: str, *targets: str, **overrides: object) -> Encoded:
    plain = {"prompt": "{source}", "max_source_tokens": 10_000, "max_target_tokens": 10_000}
    example = Example("only", source, list(targets))
    encoder = Encoder(tokenizer, section(Tokenize, **(plain | overrides)))
    (encoded,) = encoder.fitted(encoder.ids([example]))
    return encoded


def only_pair(encoded: Encoded) -> Pair:
    assert not encoded.problems
    (pair,) = encoded.pairs
    return pair


def reasons(encoded: Encoded) -> list[str]:
    return [problem.reason for problem in encoded.problems]


def source_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """What the tokenizer itself says, up to its end token: the target goes there."""
    ids: list[int] = tokenizer(text, split_special_tokens=True)["input_ids"]
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    return ids


# not those that Unigram takes for its own end token, see below
@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind in KINDS for text in TEXTS if kind is not like_t5 or "</s>" not in text]
)
def test_sources_and_targets_have_the_ids_that_the_tokenizer_gives(
    kind: Callable[[], PreTrainedTokenizerBase], text: str
) -> None:
    tokenizer = kind()
    pair = only_pair(encode(tokenizer, text, f"x{text}"))
    assert pair.source_ids == (source_ids(tokenizer, text) or [tokenizer.eos_token_id])
    assert pair.target_ids == [*text_ids(tokenizer, f"x{text}"), tokenizer.eos_token_id]
    assert pair.target_bytes == len(f"x{text}".encode())


@every_kind
def test_a_batch_gives_each_text_its_own_ids(kind: Callable[[], PreTrainedTokenizerBase]) -> None:
    tokenizer = kind()
    batch = [Example(str(number), text, [text + "!", "a fox"]) for number, text in enumerate(TEXTS)]
    encoder = Encoder(tokenizer, section(Tokenize, prompt=PROMPT, max_target_tokens=200))
    together = encoder.fitted(encoder.ids(batch))
    alone = [encode(tokenizer, text, text + "!", "a fox", prompt=PROMPT) for text in TEXTS]
    assert [[pair.source_ids for pair in each.pairs] for each in together] == [
        [pair.source_ids for pair in each.pairs] for each in alone
    ]
    assert [pair.id for each in together for pair in each.pairs] == [str(n) for n in range(len(TEXTS)) for _ in (0, 1)]


@pytest.mark.parametrize(
    ("kind", "start"), [(byte_level, None), (like_llama, "<s>"), (like_t5, None), (like_bert, "[CLS]")]
)
def test_the_start_token_of_a_source_stays_and_its_end_token_goes(
    kind: Callable[[], PreTrainedTokenizerBase], start: str | None
) -> None:
    tokenizer = kind()
    ids = only_pair(encode(tokenizer, "the fox", "a house")).source_ids
    assert tokenizer.eos_token_id not in ids
    assert ids == [
        *([] if start is None else [tokenizer.convert_tokens_to_ids(start)]),
        *text_ids(tokenizer, "the fox"),
    ]


@every_kind
def test_names_of_special_tokens_in_a_text_stay_text(kind: Callable[[], PreTrainedTokenizerBase]) -> None:
    """Also for Unigram, whose model has them as pieces, the likeliest of all."""
    tokenizer = kind()
    text = f"a {' '.join(tokenizer.all_special_tokens)} b"
    pair = only_pair(encode(tokenizer, text, text))
    # what the vocabulary has no token for is unknown, in any text
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not special & {*pair.source_ids[1:], *pair.target_ids[:-1]}


@every_kind
def test_an_empty_source_still_has_a_token_that_the_first_word_is_predicted_from(
    kind: Callable[[], PreTrainedTokenizerBase],
) -> None:
    tokenizer = kind()
    assert len(only_pair(encode(tokenizer, "", "the fox")).source_ids) == 1


@pytest.mark.parametrize("kind", [byte_level, like_llama, not_fast])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_reads_back_exactly(kind: Callable[[], PreTrainedTokenizerBase], text: str) -> None:
    tokenizer = kind()
    *ids, end = only_pair(encode(tokenizer, "s", text)).target_ids
    assert end == tokenizer.eos_token_id
    assert tokenizer.decode(ids) == text


def test_settings_for_truncation_and_padding_in_a_tokenizer_touch_no_text() -> None:
    tokenizer = like_llama()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    pair = only_pair(encode(tokenizer, CORPUS[0], CORPUS[1]))
    assert pair.source_ids == source_ids(like_llama(), CORPUS[0])
    assert pair.target_ids[:-1] == text_ids(like_llama(), CORPUS[1])


LONG = " ".join(CORPUS[:3])
LONG_EMOJI = "the fox " + EMOJI * 6


def pieces(source: str, policy: str) -> list[str]:
    """All that a cut may leave of the source, the longest first."""
    return [source[n:] if policy == "cut_start" else source[: len(source) - n] for n in range(len(source) + 1)]


def assert_well_cut(
    tokenizer: PreTrainedTokenizerBase, source: str, policy: str, limit: int, ids: Sequence[int]
) -> None:
    """The whole prompt around a part of the source, and almost the longest such part that fits."""
    possible = [source_ids(tokenizer, PROMPT.replace("{source}", piece)) for piece in pieces(source, policy)]
    assert ids in possible
    assert len(ids) <= limit
    assert len(ids) >= len(next(each for each in possible if len(each) <= limit)) - 2


@pytest.mark.parametrize(
    ("kind", "source"),
    [(kind, LONG) for kind in KINDS if kind is not not_fast] + [(byte_level, LONG_EMOJI), (like_llama, LONG_EMOJI)],
    ids=["bpe", "llama", "t5", "bert", "bpe-emoji", "llama-emoji"],
)
@pytest.mark.parametrize("policy", ["cut_start", "cut_end"])
def test_a_cut_source_keeps_its_prompt_and_as_much_of_its_text_as_fits(
    kind: Callable[[], PreTrainedTokenizerBase], policy: str, source: str
) -> None:
    tokenizer = kind()
    full = len(source_ids(tokenizer, PROMPT.replace("{source}", source)))
    for limit in range(full - 8, full):
        encoded = encode(tokenizer, source, "t", prompt=PROMPT, max_source_tokens=limit, long_source=policy)
        assert encoded.sources_cut == 1
        assert encoded.source_tokens == [full]
        assert_well_cut(tokenizer, source, policy, limit, only_pair(encoded).source_ids)


@pytest.mark.parametrize("policy", ["cut_start", "cut_end"])
def test_a_tokenizer_that_is_not_fast_cuts_too_with_the_prompt_whole(policy: str) -> None:
    tokenizer = not_fast()
    encoded = encode(tokenizer, LONG_EMOJI, "t", prompt=PROMPT, max_source_tokens=40, long_source=policy)
    text = tokenizer.decode(only_pair(encoded).source_ids)
    assert 20 < len(only_pair(encoded).source_ids) <= 40
    assert text in [PROMPT.replace("{source}", piece) for piece in pieces(LONG_EMOJI, policy)]


@pytest.mark.parametrize("policy", ["cut_start", "cut_end"])
def test_a_prompt_that_names_the_source_twice_keeps_as_much_of_it_as_fits(policy: str) -> None:
    tokenizer = byte_level()
    prompt = "{source}|{source}:"
    alone = len(text_ids(tokenizer, LONG))
    encoded = encode(tokenizer, LONG, "t", prompt=prompt, max_source_tokens=alone, long_source=policy)
    ids = only_pair(encoded).source_ids
    first, second = str(tokenizer.decode(ids)).removesuffix(":").split("|")
    assert first == second
    assert first in pieces(LONG, policy)
    assert len(ids) >= 0.8 * alone


@pytest.mark.parametrize("policy", ["set_aside", "fail"])
def test_a_long_source_takes_all_its_pairs_along_and_is_never_cut_unasked(policy: str) -> None:
    encoded = encode(byte_level(), LONG, "one", "two", max_source_tokens=20, long_source=policy)
    assert reasons(encoded) == ["long_source"] * 2
    assert encoded.pairs == []
    assert encoded.sources_cut == 0
    assert f"source of {len(text_ids(byte_level(), LONG))} tokens" in encoded.problems[0].detail


@pytest.mark.parametrize("policy", ["cut_start", "cut_end"])
@pytest.mark.parametrize("kind", [byte_level, not_fast])
def test_a_prompt_longer_than_the_limit_alone_is_said_to_be_so(
    kind: Callable[[], PreTrainedTokenizerBase], policy: str
) -> None:
    prompt = LONG + " {source}"
    encoded = encode(kind(), "the fox", "t", prompt=prompt, max_source_tokens=20, long_source=policy)
    assert reasons(encoded) == ["long_prompt"]
    assert "tokenize.prompt alone takes" in encoded.problems[0].detail


@pytest.mark.parametrize("policy", ["set_aside", "cut_start", "cut_end", "fail"])
def test_a_source_exactly_as_long_as_allowed_is_left_alone(policy: str) -> None:
    full = source_ids(byte_level(), PROMPT.replace("{source}", LONG))
    encoded = encode(byte_level(), LONG, "t", prompt=PROMPT, max_source_tokens=len(full), long_source=policy)
    assert only_pair(encoded).source_ids == full
    assert encoded.sources_cut == 0


@pytest.mark.parametrize("policy", ["set_aside", "fail"])
def test_a_long_target_is_never_cut_and_its_other_references_stay(policy: str) -> None:
    encoded = encode(byte_level(), "s", LONG, "short", max_target_tokens=20, long_target=policy)
    assert reasons(encoded) == ["long_target"]
    assert [pair.target_bytes for pair in encoded.pairs] == [5]
    assert encoded.target_tokens == [len(text_ids(byte_level(), text)) + 1 for text in (LONG, "short")]


@pytest.mark.parametrize("policy", ["set_aside", "split", "fail"])
def test_a_target_exactly_as_long_as_allowed_is_one_pair(policy: str) -> None:
    limit = len(text_ids(byte_level(), LONG)) + 1
    encoded = encode(byte_level(), "s", LONG, max_target_tokens=limit, long_target=policy, overlap_tokens=0)
    assert len(only_pair(encoded).target_ids) == limit
    assert encoded.targets_split == 0


def assert_nothing_lost(pairs: Sequence[Pair], source: list[int], whole: list[int], limit: int, overlap: int) -> None:
    assert [token for pair in pairs for token in pair.target_ids] == whole
    assert all(0 < len(pair.target_ids) <= limit for pair in pairs)
    learned = 0
    for pair in pairs:
        assert pair.source_ids == source + whole[max(learned - overlap, 0) : learned]
        learned += len(pair.target_ids)


@pytest.mark.parametrize("kind", [byte_level, like_llama, not_fast])
@pytest.mark.parametrize("overlap", [0, 5, 15])
def test_a_split_target_loses_no_token_and_each_piece_sees_what_stands_before_it(
    kind: Callable[[], PreTrainedTokenizerBase], overlap: int
) -> None:
    tokenizer = kind()
    whole = [*text_ids(tokenizer, LONG), tokenizer.eos_token_id]
    encoded = encode(tokenizer, "s", LONG, max_target_tokens=16, long_target="split", overlap_tokens=overlap)
    assert len(encoded.pairs) == -(-len(whole) // 16)
    assert_nothing_lost(encoded.pairs, source_ids(tokenizer, "s"), whole, 16, overlap)
    assert [token for pair in encoded.pairs for token in pair.target_ids].count(tokenizer.eos_token_id) == 1
    assert sum(pair.target_bytes for pair in encoded.pairs) == len(LONG.encode())
    assert (encoded.targets_split, encoded.target_tokens) == (1, [len(whole)])


# text of words that the vocabulary knows, of characters of several bytes and of blanks
texts = st.lists(
    st.sampled_from(["the", " fox", " ", "\n", "house", "é", "\u4e2d", "\N{FOX FACE}", "x", "<|end|>"]), max_size=40
).map("".join)


@given(texts, texts, st.integers(2, 30), st.data())
@settings(max_examples=80, deadline=None)
def test_no_text_limit_or_overlap_makes_a_split_lose_a_token(
    source: str, target: str, limit: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, limit - 1))
    tokenizer = byte_level()
    policies = {"long_target": "split", "overlap_tokens": overlap, "max_target_tokens": limit}
    encoded = encode(tokenizer, source, f"t{target}", **policies)
    whole = [*text_ids(tokenizer, f"t{target}"), tokenizer.eos_token_id]
    assert_nothing_lost(encoded.pairs, source_ids(tokenizer, source) or [tokenizer.eos_token_id], whole, limit, overlap)
    assert sum(pair.target_bytes for pair in encoded.pairs) == len(f"t{target}".encode())


@given(texts, st.integers(1, 40), st.sampled_from(["cut_start", "cut_end"]))
@settings(max_examples=80, deadline=None)
def test_no_text_or_limit_makes_a_cut_too_long_or_wasteful(source: str, limit: int, policy: str) -> None:
    tokenizer = byte_level()
    encoded = encode(tokenizer, source, "t", prompt=PROMPT, max_source_tokens=limit, long_source=policy)
    if limit < len(source_ids(tokenizer, PROMPT.replace("{source}", ""))):
        assert reasons(encoded) == ["long_prompt"]
    else:
        assert_well_cut(tokenizer, source, policy, limit, only_pair(encoded).source_ids)


def stripping() -> PreTrainedTokenizerBase:
    """To which `~` is nothing at all."""
    tokenizer = train_vocabulary(CORPUS, 300, "causal")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    return tokenizer


@pytest.mark.parametrize("target", ["", "~~"])
def test_a_target_without_a_token_is_a_problem_and_not_a_pair_of_the_end_token_alone(target: str) -> None:
    encoded = encode(stripping(), "s", target, "the fox")
    assert reasons(encoded) == ["untrainable"]
    assert [pair.target_bytes for pair in encoded.pairs] == [7]


def test_characters_that_the_tokenizer_removes_are_no_hindrance_to_a_cut() -> None:
    source = "~~~".join(LONG)
    for policy in ("cut_start", "cut_end"):
        encoded = encode(stripping(), source, "t", prompt=PROMPT, max_source_tokens=20, long_source=policy)
        assert_well_cut(stripping(), source, policy, 20, only_pair(encoded).source_ids)


def word_level() -> PreTrainedTokenizerBase:
    words = ["[UNK]", "[END]", "the", "fox", "house"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[END]")


def test_words_that_the_vocabulary_lacks_are_counted_in_source_and_targets() -> None:
    encoded = encode(word_level(), "the wide river", "a fox", "the house")
    assert encoded.unknown_tokens == 2 + 1
    assert encode(byte_level(), "\u4e2d", EMOJI).unknown_tokens == 0


def test_a_token_that_is_both_unknown_and_end_makes_no_text_unknown() -> None:
    """GPT-2 has one token for start, end and unknown, and no text is unknown to it: it reads bytes."""
    tokenizer = train_vocabulary(CORPUS, 300, "causal")
    tokenizer.add_special_tokens({"unk_token": "<|end|>", "bos_token": "<|end|>"})
    assert encode(tokenizer, "", "the fox").unknown_tokens == 0


def shown(pairs: Sequence[Pair]) -> Iterator[tuple[str, int]]:
    return ((pair.id, len(pair.target_ids)) for pair in pairs)


def test_the_pieces_of_a_reference_stand_together_and_in_order() -> None:
    encoded = encode(byte_level(), "s", "x" * 9, "y" * 5, max_target_tokens=4, long_target="split", overlap_tokens=1)
    assert list(shown(encoded.pairs)) == [("only", 4), ("only", 4), ("only", 2), ("only", 4), ("only", 2)]
