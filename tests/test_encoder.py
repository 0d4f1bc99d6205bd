"""Texts as ids: they are those of the tokenizer; and the policies for texts that are too long."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.checkpoint.special_tokens import MARK, NO_MARK
from stages.lib.checkpoint.tokenizers import train_tokenizer
from stages.lib.core.templates import RejectedRow
from stages.lib.encoding.conversations import turns_to_drop
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.encoder import Encoder
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import Turn
from stages.lib.records.examples import Example
from stages.lib.records.tokenized_examples import TokenizedExample
from tests.build import section
from tests.tokenizer_kinds import sentencepiece_bpe

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
    return train_tokenizer(CORPUS, 320, "causal")


@cache
def like_llama() -> PreTrainedTokenizerBase:
    """Byte fallback, a blank before every text, a start token and no end token."""
    return framed(sentencepiece_bpe(CORPUS, 400), "<s> $A", unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@cache
def like_t5() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return framed(backend, "$A </s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@cache
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


@cache
def slow() -> PreTrainedTokenizerBase:
    return ByT5Tokenizer()


def framed(backend: Tokenizer, frame: str, **names: str) -> PreTrainedTokenizerBase:
    specials = [(part, backend.token_to_id(part)) for part in frame.split() if part != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=frame, special_tokens=specials)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


TOKENIZERS = [byte_level, like_llama, like_t5, like_bert, slow]
every_tokenizer = pytest.mark.parametrize("make", TOKENIZERS)


def encode(tokenizer: PreTrainedTokenizerBase, source: str, *targets: str, **overrides: object) -> Encoded:
    plain = {"prompt": "{source}", "max_source_tokens": 10_000, "max_target_tokens": 10_000}
    example = Example("only", source, list(targets))
    encoder = Encoder(tokenizer, section(Tokenize, **(plain | overrides)))
    (encoded,) = encoder.encoded([example])
    return encoded


def only_example(encoded: Encoded) -> TokenizedExample:
    assert not encoded.problems
    (example,) = encoded.tokenized
    return example


def reasons(encoded: Encoded) -> list[str]:
    return [problem.reason for problem in encoded.problems]


def source_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of the tokenizer itself without its end token, which the target replaces."""
    ids: list[int] = tokenizer(text, split_special_tokens=True)["input_ids"]
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    return ids


# without the texts that Unigram itself reads as its end token, see below
@pytest.mark.parametrize(
    ("make", "text"),
    [(make, text) for make in TOKENIZERS for text in TEXTS if make is not like_t5 or "</s>" not in text],
)
def test_sources_and_targets_have_the_ids_of_the_tokenizer(
    make: Callable[[], PreTrainedTokenizerBase], text: str
) -> None:
    tokenizer = make()
    example = only_example(encode(tokenizer, text, f"x{text}"))
    assert example.source_ids == (source_ids(tokenizer, text) or [tokenizer.eos_token_id])
    assert example.target_ids == [*text_ids(tokenizer, f"x{text}"), tokenizer.eos_token_id]
    assert example.target_bytes == len(f"x{text}".encode())


@every_tokenizer
def test_a_batch_gives_each_text_its_own_ids(make: Callable[[], PreTrainedTokenizerBase]) -> None:
    tokenizer = make()
    batch = [Example(str(number), text, [text + "!", "a fox"]) for number, text in enumerate(TEXTS)]
    encoder = Encoder(tokenizer, section(Tokenize, prompt=PROMPT, max_target_tokens=200))
    together = encoder.encoded(batch)
    alone = [encode(tokenizer, text, text + "!", "a fox", prompt=PROMPT) for text in TEXTS]
    assert [[example.source_ids for example in each.tokenized] for each in together] == [
        [example.source_ids for example in each.tokenized] for each in alone
    ]
    ids = [example.id for each in together for example in each.tokenized]
    assert ids == [str(n) for n in range(len(TEXTS)) for _ in (0, 1)]


@pytest.mark.parametrize(
    ("make", "start"), [(byte_level, None), (like_llama, "<s>"), (like_t5, None), (like_bert, "[CLS]")]
)
def test_a_source_keeps_its_start_token_and_loses_its_end_token(
    make: Callable[[], PreTrainedTokenizerBase], start: str | None
) -> None:
    tokenizer = make()
    ids = only_example(encode(tokenizer, "the fox", "a house")).source_ids
    assert tokenizer.eos_token_id not in ids
    assert ids == [
        *([] if start is None else [tokenizer.convert_tokens_to_ids(start)]),
        *text_ids(tokenizer, "the fox"),
    ]


@every_tokenizer
def test_names_of_special_tokens_in_a_text_stay_text(make: Callable[[], PreTrainedTokenizerBase]) -> None:
    """Also with Unigram, whose model has them as its most likely pieces."""
    tokenizer = make()
    text = f"a {' '.join(tokenizer.all_special_tokens)} b"
    example = only_example(encode(tokenizer, text, text))
    # a text may have unknown tokens
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not special & {*example.source_ids[1:], *example.target_ids[:-1]}


@every_tokenizer
def test_an_empty_source_has_one_token_before_the_target(
    make: Callable[[], PreTrainedTokenizerBase],
) -> None:
    tokenizer = make()
    assert len(only_example(encode(tokenizer, "", "the fox")).source_ids) == 1


@pytest.mark.parametrize("make", [byte_level, like_llama, slow])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_decodes_exactly(make: Callable[[], PreTrainedTokenizerBase], text: str) -> None:
    tokenizer = make()
    *ids, end = only_example(encode(tokenizer, "s", text)).target_ids
    assert end == tokenizer.eos_token_id
    assert tokenizer.decode(ids) == text


def test_a_tokenizers_own_truncation_and_padding_are_not_used() -> None:
    tokenizer = deepcopy(like_llama())
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    example = only_example(encode(tokenizer, CORPUS[0], CORPUS[1]))
    assert example.source_ids == source_ids(like_llama(), CORPUS[0])
    assert example.target_ids[:-1] == text_ids(like_llama(), CORPUS[1])


LONG = " ".join(CORPUS[:3])
LONG_EMOJI = "the fox " + EMOJI * 6


def pieces(source: str, policy: str) -> list[str]:
    """All that truncation may leave of the source, the longest first."""
    return [source[n:] if policy == "left" else source[: len(source) - n] for n in range(len(source) + 1)]


def assert_well_truncated(
    tokenizer: PreTrainedTokenizerBase, source: str, policy: str, limit: int, ids: Sequence[int]
) -> None:
    """The ids are those of the whole prompt around almost the longest part of the source that fits."""
    possible = [source_ids(tokenizer, PROMPT.replace("{source}", piece)) for piece in pieces(source, policy)]
    assert ids in possible
    assert len(ids) <= limit
    assert len(ids) >= len(next(each for each in possible if len(each) <= limit)) - 2


@pytest.mark.parametrize(
    ("make", "source"),
    [(make, LONG) for make in TOKENIZERS if make is not slow] + [(byte_level, LONG_EMOJI), (like_llama, LONG_EMOJI)],
    ids=["bpe", "llama", "t5", "bert", "bpe-emoji", "llama-emoji"],
)
@pytest.mark.parametrize("policy", ["left", "right"])
def test_a_truncated_source_keeps_its_prompt_and_as_much_text_as_fits(
    make: Callable[[], PreTrainedTokenizerBase], policy: str, source: str
) -> None:
    tokenizer = make()
    full = len(source_ids(tokenizer, PROMPT.replace("{source}", source)))
    for limit in (full - 8, full - 3, full - 1):
        encoded = encode(tokenizer, source, "t", prompt=PROMPT, max_source_tokens=limit, truncation=policy)
        assert encoded.sources_truncated == 1
        assert encoded.source_tokens == [full]
        assert_well_truncated(tokenizer, source, policy, limit, only_example(encoded).source_ids)


@pytest.mark.parametrize("policy", ["left", "right"])
def test_a_slow_tokenizer_truncates_the_source_and_keeps_the_prompt(policy: str) -> None:
    tokenizer = slow()
    encoded = encode(tokenizer, LONG_EMOJI, "t", prompt=PROMPT, max_source_tokens=40, truncation=policy)
    text = tokenizer.decode(only_example(encoded).source_ids)
    assert 20 < len(only_example(encoded).source_ids) <= 40
    assert text in [PROMPT.replace("{source}", piece) for piece in pieces(LONG_EMOJI, policy)]


@pytest.mark.parametrize("policy", ["left", "right"])
def test_a_prompt_with_the_source_twice_keeps_as_much_text_as_fits(policy: str) -> None:
    tokenizer = byte_level()
    prompt = "{source}|{source}:"
    alone = len(text_ids(tokenizer, LONG))
    encoded = encode(tokenizer, LONG, "t", prompt=prompt, max_source_tokens=alone, truncation=policy)
    ids = only_example(encoded).source_ids
    first, second = str(tokenizer.decode(ids)).removesuffix(":").split("|")
    assert first == second
    assert first in pieces(LONG, policy)
    assert len(ids) >= 0.8 * alone


@pytest.mark.parametrize("policy", ["drop", "fail"])
def test_a_long_source_rejects_all_its_targets_unless_truncation_is_allowed(policy: str) -> None:
    encoded = encode(byte_level(), LONG, "one", "two", max_source_tokens=20, truncation=policy)
    assert reasons(encoded) == ["long_source"] * 2
    assert encoded.tokenized == []
    assert encoded.sources_truncated == 0
    assert f"source of {len(text_ids(byte_level(), LONG))} tokens" in encoded.problems[0].detail


@pytest.mark.parametrize("policy", ["left", "right"])
@pytest.mark.parametrize("make", [byte_level, slow])
def test_a_prompt_longer_than_the_limit_has_its_own_reason(
    make: Callable[[], PreTrainedTokenizerBase], policy: str
) -> None:
    prompt = LONG + " {source}"
    encoded = encode(make(), "the fox", "t", prompt=prompt, max_source_tokens=20, truncation=policy)
    assert reasons(encoded) == ["long_prompt"]
    assert "tokenize.prompt alone takes" in encoded.problems[0].detail


@pytest.mark.parametrize("policy", ["drop", "left", "right", "fail"])
def test_a_source_exactly_as_long_as_allowed_is_not_truncated(policy: str) -> None:
    full = source_ids(byte_level(), PROMPT.replace("{source}", LONG))
    encoded = encode(byte_level(), LONG, "t", prompt=PROMPT, max_source_tokens=len(full), truncation=policy)
    assert only_example(encoded).source_ids == full
    assert encoded.sources_truncated == 0


@pytest.mark.parametrize("policy", ["drop", "fail"])
def test_a_long_target_is_rejected_and_the_other_references_stay(policy: str) -> None:
    encoded = encode(byte_level(), "s", LONG, "short", max_target_tokens=20, long_target=policy)
    assert reasons(encoded) == ["long_target"]
    assert [example.target_bytes for example in encoded.tokenized] == [5]
    assert encoded.target_tokens == [len(text_ids(byte_level(), text)) + 1 for text in (LONG, "short")]


@pytest.mark.parametrize("policy", ["drop", "split", "fail"])
def test_a_target_exactly_as_long_as_allowed_is_not_split(policy: str) -> None:
    limit = len(text_ids(byte_level(), LONG)) + 1
    encoded = encode(byte_level(), "s", LONG, max_target_tokens=limit, long_target=policy, overlap_tokens=0)
    assert len(only_example(encoded).target_ids) == limit
    assert encoded.targets_split == 0


def assert_nothing_lost(
    examples: Sequence[TokenizedExample], source: list[int], whole: list[int], limit: int, overlap: int
) -> None:
    assert [token for example in examples for token in example.target_ids] == whole
    assert all(0 < len(example.target_ids) <= limit for example in examples)
    with_loss = 0
    for example in examples:
        assert example.source_ids == source + whole[max(with_loss - overlap, 0) : with_loss]
        with_loss += len(example.target_ids)


@pytest.mark.parametrize("make", [byte_level, like_llama, slow])
@pytest.mark.parametrize("overlap", [0, 5, 15])
def test_a_split_target_loses_no_token_and_each_piece_sees_the_tokens_before_it(
    make: Callable[[], PreTrainedTokenizerBase], overlap: int
) -> None:
    tokenizer = make()
    whole = [*text_ids(tokenizer, LONG), tokenizer.eos_token_id]
    encoded = encode(tokenizer, "s", LONG, max_target_tokens=16, long_target="split", overlap_tokens=overlap)
    assert len(encoded.tokenized) == -(-len(whole) // 16)
    assert_nothing_lost(encoded.tokenized, source_ids(tokenizer, "s"), whole, 16, overlap)
    assert [token for example in encoded.tokenized for token in example.target_ids].count(tokenizer.eos_token_id) == 1
    assert sum(example.target_bytes for example in encoded.tokenized) == len(LONG.encode())
    assert (encoded.targets_split, encoded.target_tokens) == (1, [len(whole)])


# texts of words in the vocabulary, characters of several bytes, and blanks
texts = st.lists(
    st.sampled_from(["the", " fox", " ", "\n", "house", "é", "\u4e2d", "\N{FOX FACE}", "x", "<|end|>"]), max_size=40
).map("".join)


@given(texts, texts, st.integers(2, 30), st.data())
@settings(max_examples=50)
def test_a_split_loses_no_token_whatever_text_limit_and_overlap(
    source: str, target: str, limit: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, limit - 1))
    tokenizer = byte_level()
    policies = {"long_target": "split", "overlap_tokens": overlap, "max_target_tokens": limit}
    encoded = encode(tokenizer, source, f"t{target}", **policies)
    whole = [*text_ids(tokenizer, f"t{target}"), tokenizer.eos_token_id]
    assert_nothing_lost(
        encoded.tokenized, source_ids(tokenizer, source) or [tokenizer.eos_token_id], whole, limit, overlap
    )
    assert sum(example.target_bytes for example in encoded.tokenized) == len(f"t{target}".encode())


@given(texts, st.integers(1, 40), st.sampled_from(["left", "right"]))
@settings(max_examples=50)
def test_a_truncated_source_is_neither_too_long_nor_too_short_whatever_text_and_limit(
    source: str, limit: int, policy: str
) -> None:
    tokenizer = byte_level()
    encoded = encode(tokenizer, source, "t", prompt=PROMPT, max_source_tokens=limit, truncation=policy)
    if limit < len(source_ids(tokenizer, PROMPT.replace("{source}", ""))):
        assert reasons(encoded) == ["long_prompt"]
    else:
        assert_well_truncated(tokenizer, source, policy, limit, only_example(encoded).source_ids)


@cache
def stripping() -> PreTrainedTokenizerBase:
    """Removes `~` from every text."""
    tokenizer = train_tokenizer(CORPUS, 300, "causal")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    return tokenizer


@pytest.mark.parametrize("target", ["", "~~"])
def test_a_target_without_tokens_is_rejected(target: str) -> None:
    encoded = encode(stripping(), "s", target, "the fox")
    assert reasons(encoded) == ["untrainable"]
    assert [example.target_bytes for example in encoded.tokenized] == [7]


def test_a_source_with_characters_that_the_tokenizer_removes_is_truncated() -> None:
    source = "~~~".join(LONG)
    for policy in ("left", "right"):
        encoded = encode(stripping(), source, "t", prompt=PROMPT, max_source_tokens=20, truncation=policy)
        assert_well_truncated(stripping(), source, policy, 20, only_example(encoded).source_ids)


def word_level() -> PreTrainedTokenizerBase:
    words = ["[UNK]", "[END]", "the", "fox", "house"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[END]")


def test_unknown_words_are_counted_in_source_and_targets() -> None:
    encoded = encode(word_level(), "the wide river", "a fox", "the house")
    assert encoded.unknown_tokens == 2 + 1
    assert encode(byte_level(), "\u4e2d", EMOJI).unknown_tokens == 0


def test_an_unknown_token_that_is_also_the_end_token_is_not_counted() -> None:
    """GPT-2 has one token for start, end and unknown. It is byte-level and knows every text."""
    tokenizer = train_tokenizer(CORPUS, 300, "causal")
    tokenizer.add_special_tokens({"unk_token": "<|end|>", "bos_token": "<|end|>"})
    assert encode(tokenizer, "", "the fox").unknown_tokens == 0


def test_the_pieces_of_each_reference_are_neighbours_and_in_order() -> None:
    encoded = encode(byte_level(), "s", "x" * 9, "y" * 5, max_target_tokens=4, long_target="split", overlap_tokens=1)
    assert [len(example.target_ids) for example in encoded.tokenized] == [4, 4, 2, 4, 2]
    assert {example.id for example in encoded.tokenized} == {"only"}


def with_turn_tokens(make: Callable[[], PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    tokenizer = deepcopy(make())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, like_llama, slow])
@pytest.mark.parametrize(
    "source", ["the fox", "a <|user|> b", "<|assistant|>", f"{MARK}<|user|>", "", f"{MARK} the{NO_MARK} fox{MARK}"]
)
def test_special_tokens_of_the_prompt_are_special_and_those_of_a_source_stay_text(
    make: Callable[[], PreTrainedTokenizerBase], source: str
) -> None:
    tokenizer = with_turn_tokens(make)
    encoded = encode(tokenizer, source, "a house", prompt="<|user|>{source}<|assistant|>")
    ids = only_example(encoded).source_ids
    user, assistant = (tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", "<|assistant|>"))
    start = source_ids(tokenizer, "")
    assert ids[: len(start) + 1] == [*start, user]
    assert ids[-1] == assistant
    assert [token for token in ids if token in (user, assistant)] == [user, assistant]
    assert tokenizer.decode(ids[len(start) + 1 : -1]) == source
    if "|" not in source:
        assert ids == source_ids_with_special(tokenizer, f"<|user|>{source}<|assistant|>")


def source_ids_with_special(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


@pytest.mark.parametrize("prompt", ["<s>{source}", "<s>Q: {source}\nA:", "<s>{source}</s>"])
def test_a_start_token_that_the_prompt_names_is_not_doubled_and_its_end_token_stays(prompt: str) -> None:
    ids = only_example(encode(like_llama(), "the fox", "t", prompt=prompt)).source_ids
    assert ids == source_ids_with_end(like_llama(), prompt.replace("{source}", "the fox"))
    assert ids.count(like_llama().bos_token_id) == 1


def source_ids_with_end(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("policy", ["left", "right"])
@pytest.mark.parametrize("make", [byte_level, like_llama, slow])
def test_a_truncated_source_keeps_a_prompt_of_special_tokens(
    make: Callable[[], PreTrainedTokenizerBase], policy: str
) -> None:
    tokenizer = with_turn_tokens(make)
    limits = {"max_source_tokens": 30, "truncation": policy, "prompt": "<|user|>{source}<|assistant|>"}
    ids = only_example(encode(tokenizer, LONG, "t", **limits)).source_ids
    assert 20 < len(ids) <= 30
    user, assistant = (tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", "<|assistant|>"))
    start = len(source_ids(tokenizer, ""))
    assert [place for place, token in enumerate(ids) if token in (user, assistant)] == [start, len(ids) - 1]
    assert (ids[start], ids[-1]) == (user, assistant)


@pytest.mark.parametrize("source", ["the fox", LONG])
@pytest.mark.parametrize("policy", ["drop", "left"])
def test_a_question_without_references_has_a_source_and_no_target(source: str, policy: str) -> None:
    encoded = encode(byte_level(), source, max_source_tokens=20, truncation=policy)
    assert encoded.tried == 1
    if source == LONG and policy == "drop":
        assert reasons(encoded) == ["long_source"]
    else:
        example = only_example(encoded)
        assert example == TokenizedExample("only", example.source_ids, [], [], 0)
        assert 0 < len(example.source_ids) <= 20


@pytest.mark.parametrize(
    ("source", "target", "has_any"),
    [("the fox", "a house", False), ("a <|end|>", "b", True), ("a", "<|pad|>", True), ("<|", f"end|> {MARK}", False)],
)
def test_an_example_with_special_tokens_as_text_is_named(source: str, target: str, has_any: bool) -> None:
    assert encode(byte_level(), source, target).special_as_text is has_any


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 13))
def test_the_fewest_old_turns_are_dropped_whatever_the_guess(sizes: list[int], limit: int, likely: int) -> None:
    turns = [Turn(("user", "assistant")[place % 2], "x" * size) for place, size in enumerate(sizes)]

    def length(history: list[Turn]) -> int:
        return sum(len(turn.text) for turn in history)

    fitting = [count for count in range(0, len(turns), 2) if sum(sizes[count:]) <= limit]
    try:
        assert turns_to_drop(turns, length, limit, likely) == fitting[0]
    except RejectedRow:
        assert not fitting
