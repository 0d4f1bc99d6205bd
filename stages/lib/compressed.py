"""Files of bytes and of text, compressed or not, opened with their progress told and their encoding checked."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from stages.lib.process import UserError

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = tuple(_OPENERS)
# the marks of UTF-32 begin with those of UTF-16, so they come first
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LOOKED_AT = 4096  # bytes


class _Counted(io.FileIO):
    """Tells how many bytes are read from the disk, so that progress is right for compressed files too."""

    def __init__(self, path: Path, progress: Callable[[int], object]) -> None:
        super().__init__(path)
        self._progress = progress

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer) or 0
        self._progress(count)
        return count


@contextmanager
def open_bytes(path: Path, progress: Callable[[int], object]) -> Iterator[IO[bytes]]:
    """Raises UserError where the file, or what it is compressed with, turns out to be broken."""
    with named_faults(path), _Counted(path, progress) as raw:
        file = io.BufferedReader(raw, 1 << 16)
        opener = _OPENERS.get(path.suffix.lower())
        yield opener(file) if opener else file


@contextmanager
def open_text(path: Path, encoding: str, newline: str, progress: Callable[[int], object]) -> Iterator[IO[str]]:
    """Bytes that do not decode come as lone surrogates U+DC80 to U+DCFF (`surrogateescape`): a bad row is no bad file.

    A byte order mark is believed, whatever `encoding` says.

    Raises:
        UserError: as open_bytes; or the file is plainly in another encoding.
    """
    with open_bytes(path, progress) as file:
        start = cast(io.BufferedReader, file).peek(_LOOKED_AT)[:_LOOKED_AT]
        marked = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
        if marked is None and encoding.lower().replace("_", "-") in ("utf-8", "utf8") and _looks_wide(start):
            raise UserError(f"{path}: every other byte is zero, as in UTF-16; name it in prepare.reading.encoding")
        wide = codecs.lookup(marked or encoding).name.startswith(("utf-16", "utf-32"))
        errors = "strict" if wide else "surrogateescape"
        yield io.TextIOWrapper(file, marked or encoding, errors, newline)


def _looks_wide(start: bytes) -> bool:
    return len(start) >= 4 and start.count(0) > 0.3 * len(start)


@contextmanager
def named_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        reason = getattr(error, "reason", None) or str(error)
        raise UserError(f"{path}: not in the encoding that its start shows ({reason}); convert it to UTF-8") from None
    except EOFError:
        raise UserError(f"{path}: the compressed file ends too early; copy or download it again") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the libraries that unpack give no number
            raise UserError(f"{path}: can't be read: {error.strerror}") from None
        raise UserError(f"{path}: not a sound {path.suffix} file: {error}; copy or download it again") from None
