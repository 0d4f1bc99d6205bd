"""Known public test sets as hashed 13-grams, against which train is checked: the contamination check of GPT-3 (Brown et
al. 2020, appendix C). GPT-3 took shorter n-grams where a test set is of short texts; here a text of fewer than 13 words
is never found."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.lib.core.files import atomic_file
from stages.lib.core.process import UserError
from stages.lib.core.worker_pool import in_batches
from stages.lib.overlap.hashed_ngrams import N, ngrams, words_of
from stages.lib.overlap.minhash import Hashes

# the name of the field tells our files from others with numbers, and from those of another hash
_FIELD = "blake2b_13gram"
_FILE = np.dtype([(_FIELD, "<u8")])
_SORTED = 1 << 23  # n-grams at a time: 64 MiB
_MAX_TEXTS = 1 << 20  # of a run; even one without n-grams takes 100 bytes until then


@dataclass(frozen=True)
class KnownNgrams:
    """The n-grams in a file that `write_ngrams` has written. It can be sent to other processes, and opens the file at
    the first use: it is mapped, so that all processes share its memory.

    Two n-grams have the same hash with probability 2⁻⁶⁴: among 10⁸ known ones, 2 of 10¹² others are taken for known.
    """

    path: Path

    def __reduce__(self) -> tuple[type["KnownNgrams"], tuple[Path]]:
        return KnownNgrams, (self.path,)  # not the file's content

    def __len__(self) -> int:
        return len(self._hashes)

    def first_in(self, text: str) -> str | None:
        """The first known n-gram in a text, as words divided by blanks.

        Raises:
            UserError: the file is not there, or no file of n-grams.
        """
        found = words_of(text)
        hashes = ngrams(found)
        places = np.searchsorted(self._hashes, hashes)
        is_known = self._hashes[np.minimum(places, len(self) - 1)] == hashes
        if not is_known.any():
            return None
        first = int(is_known.argmax())
        return " ".join(found[first : first + N])

    @cached_property
    def _hashes(self) -> Hashes:
        advice = "see prepare.known_ngrams; python -m stages.tools.hash_ngrams makes such a file"
        try:
            content = np.load(self.path, mmap_mode="r")
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file; {advice}") from None
        except OSError as error:
            raise UserError(f"{self.path}: can't be read: {error.strerror}; {advice}") from None
        except (ValueError, EOFError):
            content = None
        if getattr(content, "dtype", None) != _FILE or content.ndim != 1 or not len(content):
            raise UserError(f"{self.path}: not a list of n-grams; {advice}")
        return np.asarray(content[_FIELD])


def write_ngrams(path: Path, batches: Iterable[Hashes]) -> int:
    """Writes the distinct n-grams, sorted, and returns their number. Memory is bounded: sorted runs wait beside the
    file, in as much space as all n-grams take, 8 bytes for each.

    Raises:
        UserError: there are none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ngrams-") as folder:
        runs = [_written(run, Path(folder) / f"{number}.npy") for number, run in enumerate(_runs(batches))]
        count = sum(map(len, _merged(runs)))
        if not count:
            raise UserError(f"{path}: not written, since no text has {N} words")
        with atomic_file(path) as part:
            target = np.lib.format.open_memmap(part, "w+", _FILE, (count,))
            start = 0
            for piece in _merged(runs):
                target[_FIELD][start : start + len(piece)] = piece
                start += len(piece)
            target.flush()
    return count


def _runs(batches: Iterable[Hashes]) -> Iterator[Hashes]:
    """The same n-grams, sorted within large pieces."""
    return (_distinct(some) for some in in_batches(batches, len, _MAX_TEXTS, _SORTED))


def _written(run: Hashes, path: Path) -> Hashes:
    np.save(path, run)
    return np.load(path, mmap_mode="r") if len(run) else run


def _merged(runs: Sequence[Hashes]) -> Iterator[Hashes]:
    """Sorted pieces of all runs. Hashes are even over their range, so equal parts of it hold about as many of them."""
    parts = max(sum(map(len, runs)) // _SORTED, 1)
    borders = [part * (1 << 64) // parts for part in range(1, parts)]
    cuts = [[0, *np.searchsorted(run, np.array(borders, np.uint64)), len(run)] for run in runs]
    for part in range(parts if runs else 0):
        yield _distinct([run[cut[part] : cut[part + 1]] for run, cut in zip(runs, cuts, strict=True)])


def _distinct(pieces: Sequence[Hashes]) -> Hashes:
    """Sorted. np.unique takes several times as long."""
    hashes = np.concatenate(pieces)
    hashes.sort()
    is_new = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=is_new[1:])
    return hashes[is_new]
