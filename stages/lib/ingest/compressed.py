"""Opens files of bytes or text, also compressed or in a zip archive. Reports the progress and checks the encoding."""

import bz2
import codecs
import gzip
import io
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from stages.lib.core.process import UserError

Progress = Callable[[int], object]  # gets the number of bytes of the file that were read since the last call

_OPENERS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: io.BufferedReader(pa.CompressedInputStream(file, "zstd"), _BUFFER),
}
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
_BUFFER = 1 << 16  # bytes
_ENCRYPTED = 1  # a bit of the flags of a member


class _Reporting(io.RawIOBase):
    """Reports the bytes read, before they are decompressed, so that the progress is right for compressed files too."""

    def __init__(self, file: IO[bytes], progress: Progress) -> None:
        super().__init__()
        self._file, self._progress = file, progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = cast(Any, self._file).readinto(buffer) or 0
        self._progress(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def open_text(
    path: Path, encoding: str, newline: str, progress: Progress, member: str | None = None
) -> Iterator[IO[str]]:
    """Bytes that can't be decoded become lone surrogates U+DC80 to U+DCFF (`surrogateescape`): a bad row must not
    stop the file. A byte order mark overrides `encoding`.

    Raises:
        UserError: as open_bytes; or the file is obviously in another encoding.
    """
    with open_bytes(path, progress, member) as file:
        start = cast(io.BufferedReader, file).peek(_SAMPLE)[:_SAMPLE]
        marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
        if marked is None and encoding.lower().replace("_", "-") in ("utf-8", "utf8") and _looks_wide(start):
            name = full_name(path, member)
            raise UserError(f"{name}: every other byte is zero, as in UTF-16; set prepare.reading.encoding")
        wide = codecs.lookup(marked or encoding).name.startswith(("utf-16", "utf-32"))
        errors = "strict" if wide else "surrogateescape"
        yield io.TextIOWrapper(file, marked or encoding, errors, newline)


def _looks_wide(start: bytes) -> bool:
    return len(start) >= 4 and start.count(0) > 0.3 * len(start)


@contextmanager
def open_seekable(path: Path, progress: Progress, member: str | None = None) -> Iterator[Path]:
    """A file that is not read from start to end. A member of an archive is copied to a temporary file first.

    Raises:
        UserError: the file is compressed as a whole; or a member, as in open_bytes.
    """
    name = full_name(path, member)
    if name.suffix.lower() in COMPRESSED:
        raise UserError(f"{name}: a file of this format must be read in any order; unpack the {name.suffix} first")
    if member is None:
        yield path
        return
    with tempfile.NamedTemporaryFile() as copy:
        with open_bytes(path, progress, member) as file:
            shutil.copyfileobj(file, copy, _BUFFER)
        copy.flush()
        yield Path(copy.name)


@contextmanager
def open_bytes(path: Path, progress: Progress, member: str | None = None) -> Iterator[IO[bytes]]:
    """A file, or a member of a zip archive, without its compression.

    Raises:
        UserError: the file, its compression or the archive turns out to be broken.
    """
    name = full_name(path, member)
    with user_errors(name):
        file = path.open("rb", buffering=0) if member is None else _archive(path).file.open(member)
        with io.BufferedReader(_Reporting(file, progress), _BUFFER) as stored:
            opener = _OPENERS.get(name.suffix.lower())
            yield opener(stored) if opener else stored


def full_name(path: Path, member: str | None) -> Path:
    """What messages call a file, or a member of an archive. Its own name may begin with a slash."""
    return path if member is None else Path(f"{path}/{member}")


def members(path: Path) -> dict[str, int]:
    """The size in bytes of each file in a zip archive, by name.

    Raises:
        UserError: the archive is broken or encrypted, or two files in it have the same name.
    """
    with user_errors(path):
        return _archive(path).sizes


@dataclass(frozen=True)
class _Archive:
    file: zipfile.ZipFile
    sizes: dict[str, int]


def _archive(path: Path) -> _Archive:
    status = path.stat()
    return _opened_archive(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _opened_archive(path: Path, *_version: int) -> _Archive:
    """Kept open: to read the directory of an archive anew for each of its files takes hours if there are many."""
    file = zipfile.ZipFile(path)
    infos = [info for info in file.infolist() if not info.is_dir()]
    sizes = {info.filename: info.file_size for info in infos}
    if len(sizes) < len(infos):
        raise UserError(f"{path}: two files in it have the same name; unpack it")
    if encrypted := next((info.filename for info in infos if info.flag_bits & _ENCRYPTED), None):
        raise UserError(f"{path}/{encrypted}: needs a password; unpack the archive")
    return _Archive(file, sizes)


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
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path}: can't be unpacked: {error}; copy or download it again, or unpack it") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # errors of decompression have no number
            raise UserError(f"{path}: can't be read: {error.strerror}") from None
        raise UserError(f"{path}: not a valid {path.suffix} file: {error}; copy or download it again") from None
