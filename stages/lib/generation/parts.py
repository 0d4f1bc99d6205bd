"""Work in parts, such as the batches of a test set: a killed stage goes on where it was, and several processes share
the parts. The results of each part are a file in the folder of the stage's resumable state."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.lib.core.files import read_jsonl, write_jsonl
from stages.lib.core.process import is_main_process

_POLL_SECONDS = 0.1

Record = dict[str, Any]


class Parts:
    """The parts of one kind of work. Each process does its share of them, and only the main one shows a bar.

    Args:
        folder: of the resumable state.
        title: of the bar.
        unit: what the work counts, such as `texts`; it also names the files.
        parts: the items of each part, as numbers from 0. The same in every process, and after a kill.
        sizes: of all items, in tokens: the time that they take goes by them.
        work: the items of a part -> what is kept of each.
        is_shared: whether the processes share the work; else each does all of it.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        unit: str,
        parts: Sequence[Sequence[int]],
        sizes: Sequence[int],
        work: Callable[[Sequence[int]], list[Record]],
        is_shared: bool = True,
    ) -> None:
        self._folder, self._title, self._unit = folder, title, unit
        self._parts, self._sizes, self._work, self._is_shared = parts, sizes, work, is_shared

    def seconds_left(self) -> float:
        """For this process's share, as long as its first unfinished part takes, which is done here."""
        first, *rest = self._unfinished() or [[]]
        if not first:
            return 0.0
        with self._bar(leave=False) as bar:
            begun = time.monotonic()
            self._do(first, bar)
        return (time.monotonic() - begun) * sum(map(self._size, rest)) / self._size(first)

    def results(self) -> dict[int, Record]:
        """Item -> what is kept of it. Does what is left, and waits for the other processes. They return nothing."""
        with self._bar(leave=True) as bar:
            for part in self._unfinished():
                self._do(part, bar)
            if not is_main_process():
                return {}
            found = dict[int, Record]()
            for part in self._parts:
                while (records := self._finished(part)) is None:
                    time.sleep(_POLL_SECONDS)
                found |= zip(part, records, strict=True)
                bar.update(max(0, len(found) - bar.n))
        return found

    def _unfinished(self) -> list[Sequence[int]]:
        """Those of this process."""
        rank, processes = (int(os.environ.get(name, usual)) for name, usual in (("RANK", "0"), ("WORLD_SIZE", "1")))
        own = self._parts[rank::processes] if self._is_shared else self._parts
        return [part for part in own if self._finished(part) is None]

    def _do(self, part: Sequence[int], bar: "tqdm[Any]") -> None:
        write_jsonl(self._file(part), self._work(part))
        bar.update(len(part))

    def _finished(self, part: Sequence[int]) -> list[Record] | None:
        try:
            records = list(read_jsonl(self._file(part)))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return records if len(records) == len(part) else None  # a power cut can empty a file

    def _file(self, part: Sequence[int]) -> Path:
        """Named by the items, so that other parts than before find no results."""
        return self._folder / f"{self._unit}-{hashlib.sha256(repr(list(part)).encode()).hexdigest()[:16]}.jsonl"

    def _size(self, part: Sequence[int]) -> int:
        return sum(self._sizes[item] for item in part)

    def _bar(self, leave: bool) -> "tqdm[Any]":
        done = sum(len(part) for part in self._parts if self._finished(part) is not None)
        total, hidden = sum(map(len, self._parts)), not is_main_process()
        return tqdm(total=total, initial=done, desc=self._title, unit=f" {self._unit}", disable=hidden, leave=leave)
