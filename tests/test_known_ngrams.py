"""Known test sets: a copied passage is found however it is written, nothing else is, and every mistake has its line."""

# ruff: noqa: RUF001
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.core.process import UserError
from stages.lib.ingest import known_ngrams
from stages.lib.ingest.known_ngrams import KnownNgrams, write_ngrams
from stages.lib.overlap.hashed_ngrams import ngrams, words_of
from stages.tools import hash_ngrams
from tests.build import PROJECT

PASSAGE = "The Eagle, a cheap coffee shop, isn't far from the river; it serves well-known Indian food all day."
WORDS = "the eagle a cheap coffee shop isn t far from the river it"
GREEK = "Ο Αετός είναι ένα φθηνό καφέ δίπλα στο ποτάμι και σερβίρει κάθε μέρα ινδικό φαγητό"
HINDI = "नदी के पास एक सस्ता कॉफी घर है और वह हर दिन अच्छा भारतीय खाना देता है"
CHINESE = "老鹰是河边一家便宜的咖啡店，全天供应著名的印度菜。"
OTHER = "Nothing in these words was ever part of any test set that somebody has published anywhere"


def known(folder: Path, *texts: str) -> KnownNgrams:
    write_ngrams(folder / "known.npy", (ngrams(words_of(text)) for text in texts))
    return KnownNgrams(folder / "known.npy")


@pytest.mark.parametrize(
    "text",
    [
        PASSAGE,
        PASSAGE.upper(),
        f"{OTHER}. {PASSAGE} {OTHER}.",
        "“the eagle”  —\n\ta cheap coffee shop isn’t far from, the river. It serves",
        "the eagle , a cheap coffee shop , isn 't far from the river ; it",
    ],
)
def test_a_passage_is_found_however_it_is_written(text: str, tmp_path: Path) -> None:
    assert known(tmp_path, OTHER, PASSAGE).first_in(text) in (WORDS, words_in_order(OTHER))


def words_in_order(text: str) -> str:
    return " ".join(text.lower().split()[:13])


@pytest.mark.parametrize("passage", [GREEK, HINDI, CHINESE, "Ｆｕｌｌ width " * 7])
def test_any_script_has_words(passage: str, tmp_path: Path) -> None:
    found = known(tmp_path, passage)
    assert found.first_in(f"{OTHER} {passage.upper()}") is not None
    assert found.first_in(OTHER) is None


@pytest.mark.parametrize(
    "text",
    [
        OTHER,
        "",
        "?!" * 100,
        " ".join(WORDS.split()[:-1]),  # 12 words
        " ".join(reversed(WORDS.split())),
        "a the eagle cheap coffee shop isn t far from the river it",
        WORDS.replace("cheap", "dear"),
    ],
)
def test_nothing_else_is_found(text: str, tmp_path: Path) -> None:
    assert known(tmp_path, PASSAGE).first_in(text) is None


@given(st.lists(st.text("ab", min_size=1, max_size=2), max_size=40), st.lists(st.text("ab", min_size=1, max_size=2)))
def test_a_text_shares_what_a_search_in_its_words_finds(first: list[str], second: list[str]) -> None:
    def pieces(found: list[str]) -> list[tuple[str, ...]]:
        return [tuple(found[start : start + 13]) for start in range(len(found) - 12)]

    known_hashes = set(ngrams(first).tolist())
    shared = [number in known_hashes for number in ngrams(second).tolist()]
    assert shared == [piece in pieces(first) for piece in pieces(second)]


def test_hashes_are_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from stages.lib.overlap.hashed_ngrams import ngrams, words_of; "
        "print(ngrams(words_of(sys.argv[1])))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code, PASSAGE],
            cwd=PROJECT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert texts == {f"{ngrams(words_of(PASSAGE))}\n".encode()}


def test_it_goes_to_other_processes_without_its_content(tmp_path: Path) -> None:
    found = known(tmp_path, *(f"{PASSAGE} {number}" for number in range(1000)))
    assert found.first_in(PASSAGE) == WORDS
    sent = pickle.dumps(found)
    assert len(sent) < 1000  # bytes
    assert pickle.loads(sent).first_in(PASSAGE) == WORDS


@pytest.mark.parametrize("at_a_time", [1, 7, 50, 1 << 20])
def test_the_file_is_the_same_however_little_is_sorted_at_a_time(
    at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{PASSAGE} {number % 9} {PASSAGE}" for number in range(20)]
    expected = np.unique(np.concatenate([ngrams(words_of(text)) for text in texts]))
    monkeypatch.setattr(known_ngrams, "_SORTED", at_a_time)
    found = known(tmp_path, *texts)
    assert len(found) == len(expected)
    assert np.load(found.path).view(np.uint64).tolist() == expected.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["known.npy"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"the eagle a cheap coffee shop",
        b"\x93NUMPY\x01\x00",
        "numbers",
        "floats",
        "cut",
        "objects",
    ],
)
def test_a_file_of_something_else_is_refused(content: bytes | str | None, tmp_path: Path) -> None:
    path = tmp_path / "list.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        path.write_bytes(known(tmp_path, PASSAGE).path.read_bytes()[:-4])
    elif content is not None:
        kinds = {"numbers": np.uint64, "floats": float, "objects": object}
        np.save(path, np.arange(9).astype(kinds[content]))
    with pytest.raises(UserError) as error:
        KnownNgrams(path).first_in(PASSAGE)
    assert len(error.value.lines) == 1
    assert error.value.lines[0].startswith(str(path))
    assert "prepare.known_ngrams" in error.value.lines[0]
    assert "pickle" not in error.value.lines[0]


def run_tool(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["hash_ngrams", *map(str, arguments)])
    hash_ngrams.main()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "more").mkdir(parents=True)
    (folder / "a.csv").write_text(f'question,answer\nshort,"{PASSAGE}"\n')
    (folder / "b.jsonl").write_text(f'{{"turns": [{{"text": "{GREEK}"}}, 1], "id": 1.5}}\n{{broken\n', "utf-8")
    pq.write_table(pa.table({"text": [CHINESE, None]}), folder / "more/c.parquet")
    return folder


def test_the_tool_reads_all_texts_of_a_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_tool(monkeypatch, tmp_path / "new/known.npy", data)
    found = KnownNgrams(tmp_path / "new/known.npy")
    assert all(found.first_in(text) for text in (PASSAGE, GREEK, CHINESE))
    printed = capsys.readouterr().out
    assert f"{len(found):,} n-grams of 13 words, from 3 texts; 3 more are shorter" in printed
    assert "1 of 5 rows can't be read" in printed


@pytest.mark.parametrize(
    ("file", "column"), [("a.csv", "answer"), ("b.jsonl", "turns.*.text"), ("more/c.parquet", "text")]
)
def test_the_tool_reads_the_named_columns(
    file: str, column: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file == "b.jsonl":
        (data / file).write_text(f'{{"turns": [{{"text": "{GREEK}"}}], "other": "{OTHER}"}}\n', "utf-8")
    run_tool(monkeypatch, tmp_path / "known.npy", data / file, column)
    found = KnownNgrams(tmp_path / "known.npy")
    assert [bool(found.first_in(text)) for text in (PASSAGE, GREEK, CHINESE, OTHER)].count(True) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: "),
        (["known.npy"], "usage: "),
        (["known.npy", "set", "--help"], "usage: "),
        (["known.npy", "absent.csv"], "absent.csv: no such file"),
        (["known.npy", "set/a.csv", "text"], "no column text"),
        (["known.npy", "set/a.csv", "question"], "no text has 13 words"),
    ],
)
def test_the_tool_says_in_one_line_what_is_wrong(
    arguments: list[str], message: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    with pytest.raises(UserError) as error:
        run_tool(monkeypatch, *arguments)
    assert len(error.value.lines) == 1
    assert message in error.value.lines[0]
    assert [path.name for path in data.parent.iterdir()] == ["set"], "nothing half-made may stay"
