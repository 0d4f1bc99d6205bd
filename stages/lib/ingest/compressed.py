"""Opens files of bytes or text, compressed or not. Reports the progress and checks the encoding."""

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

from stages.lib.core.process import UserError

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = tuple(_OPENERS)
# UTF-32 first: its marks begin with those of UTF-16
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SAMPLE = 4096  # bytes


class _ReportingFile(io.FileIO):
    """Reports the bytes read from the disk, so that the progress is right for compressed files too."""

    def __init__(self, path: Path, progress: Callable[[int], object]) -> None:
        super().__init__(path)
        self._progress = progress

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer) or 0
        self._progress(count)
        return count


@contextmanager
def open_bytes(path: Path, progress: Callable[[int], object]) -> Iterator[IO[bytes]]:
    """Raises UserError if the file, or its compression, turns out to be broken."""
    with user_errors(path), _ReportingFile(path, progress) as raw:
        file = io.BufferedReader(raw, 1 << 16)
        opener = _OPENERS.get(path.suffix.lower())
        yield opener(file) if opener else file


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turns errors of reading into a UserError that names the file."""
    try:
        yield
    except UnicodeError as error:
        reason = getattr(error, "reason", None) or str(error)
        raise UserError(
            f"{path}: not in the encoding that its first bytes show ({reason}); convert it to UTF-8"
        ) from None
    except EOFError:
        raise UserError(f"{path}: the compressed file ends too early; copy or download it again") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # errors of decompression have no number
            raise UserError(f"{path}: can't be read: {error.strerror}") from None
        raise UserError(f"{path}: not a valid {path.suffix} file: {error}; copy or download it again") from None


@contextmanager
def open_text(path: Path, encoding: str, newline: str, progress: Callable[[int], object]) -> Iterator[IO[str]]:
    """Bytes that can't be decoded become lone surrogates U+DC80 to U+DCFF (`surrogateescape`): a bad row must not
    stop the file. A byte order mark overrides `encoding`.

    Raises:
        UserError: as open_bytes; or the file is obviously in another encoding.
    """
    with open_bytes(path, progress) as file:
        start = cast(io.BufferedReader, file).peek(_SAMPLE)[:_SAMPLE]
        marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
        if marked is None and encoding.lower().replace("_", "-") in ("utf-8", "utf8") and _looks_wide(start):
            raise UserError(f"{path}: every other byte is zero, as in UTF-16; set prepare.reading.encoding")
        wide = codecs.lookup(marked or encoding).name.startswith(("utf-16", "utf-32"))
        errors = "strict" if wide else "surrogateescape"
        yield io.TextIOWrapper(file, marked or encoding, errors, newline)


def _looks_wide(start: bytes) -> bool:
    return len(start) >= 4 and start.count(0) > 0.3 * len(start)
