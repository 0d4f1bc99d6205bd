"""Work in parts: it goes on where a kill has left it, and several processes share it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stages.lib.generation.parts import Parts, Record

PARTS = [[4, 0], [2, 5], [1, 3]]
SIZES = [1, 2, 3, 4, 5, 6]


class Killed(BaseException):
    pass


def parts(folder: Path, work: Callable[[Sequence[int]], list[Record]], own: Sequence[Sequence[int]] = PARTS) -> Parts:
    return Parts(folder, "test", "texts", own, SIZES, work)


def squares(part: Sequence[int]) -> list[Record]:
    return [{"text": f"{item * item}\u2028\ud800"} for item in part]  # as odd as a text can be


def test_a_killed_run_goes_on_after_its_last_part(tmp_path: Path) -> None:
    done = list[Sequence[int]]()

    def killed_in_the_third(part: Sequence[int]) -> list[Record]:
        if len(done) == 2:
            raise Killed
        done.append(part)
        return squares(part)

    with pytest.raises(Killed):
        parts(tmp_path, killed_in_the_third).results()
    rest = list[Sequence[int]]()

    def recorded(part: Sequence[int]) -> list[Record]:
        rest.append(part)
        return squares(part)

    found = parts(tmp_path, recorded).results()
    assert found == {item: record for item, record in enumerate(squares(range(6)))}
    assert (done, rest) == (PARTS[:2], PARTS[2:])


@pytest.mark.parametrize("torn", [b"", b'{"text": "1', b'{"text": "1"}\n'])
def test_a_file_that_a_power_cut_has_torn_is_made_again(tmp_path: Path, torn: bytes) -> None:
    found = parts(tmp_path, squares).results()
    for file in tmp_path.iterdir():
        file.write_bytes(torn)
    assert parts(tmp_path, squares).results() == found


def test_other_parts_find_no_results_of_these(tmp_path: Path) -> None:
    parts(tmp_path, lambda part: [{"text": "old"}] * len(part)).results()
    found = parts(tmp_path, squares, [[0, 4], [2, 5, 1, 3]]).results()
    assert [found[item] for item in range(6)] == squares(range(6))


def test_processes_share_the_parts_and_the_main_one_joins_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[Sequence[int]]()

    def recorded(part: Sequence[int]) -> list[Record]:
        done.append(part)
        return squares(part)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert parts(tmp_path, recorded).results() == {}
    assert done == [PARTS[1]]
    monkeypatch.setenv("RANK", "0")
    found = parts(tmp_path, recorded).results()
    assert [found[item] for item in range(6)] == squares(range(6))
    assert done == [PARTS[1], PARTS[0], PARTS[2]]


def test_the_seconds_left_go_by_the_size_of_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, of size 6, has taken 3 seconds; the others have 9 and 6. It is kept."""
    clock = iter([10.0, 13.0])
    monkeypatch.setattr("stages.lib.generation.parts.time.monotonic", lambda: next(clock))
    assert parts(tmp_path, squares).seconds_left() == 7.5
    assert len(list(tmp_path.iterdir())) == 1
    parts(tmp_path, squares).results()
    assert parts(tmp_path, squares).seconds_left() == 0
