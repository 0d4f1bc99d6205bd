"""The disk that prepare needs while it runs, told before it starts."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from stages.lib.core.process import UserError
from stages.lib.ingest.compressed import COMPRESSED, open_bytes
from stages.lib.ingest.readers import File, Origin
from stages.lib.params.prepare import Prepare

# tests/benchmarks/data_scale.py measures them
_BYTES_OF_A_ROW, _BYTES_OF_NEAR = 400, 270  # keys of a row in all tables; those that find near duplicates
_COPIES = 2  # of the texts: cleaned, and as examples
_UNPACKED = 5  # times the size of a compressed file
_USUAL_ROW = 200  # bytes, where the lines of a file don't tell

_SAMPLE = 1 << 20
_WORTH_TELLING = 1 << 30


def check_disk(origins: Sequence[Origin], params: Prepare, folder: Path) -> None:
    """Prints what large data needs. Of a data set on the hub, nothing is known.

    Args:
        folder: on the disk where the work is done; it exists.

    Raises:
        UserError: the disk has not so much left.
    """
    needed = sum(_needed(origin, params.mixed(origin.mix)) for origin in origins)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"prepare: about {_in_gigabytes(needed)} of disk are needed meanwhile, and {folder} has "
            f"{_in_gigabytes(free)} left; free some, or prepare less data"
        )
    if needed > _WORTH_TELLING:
        print(f"prepare: needs about {_in_gigabytes(needed)} of disk meanwhile; {_in_gigabytes(free)} are free")


def _needed(origin: Origin, params: Prepare) -> int:
    files = origin.all_files()
    if not files:
        return 0
    size = sum(map(_unpacked_size, files))
    own = _BYTES_OF_A_ROW + (_BYTES_OF_NEAR if params.duplicates.near is not None else 0)
    return _COPIES * size + own * _rows(files[0], params)


def _unpacked_size(file: File) -> int:
    is_packed = file.format() == "parquet" or Path(file.name).suffix.lower() in COMPRESSED
    return file.size() * (_UNPACKED if is_packed else 1)


def _rows(file: File, params: Prepare) -> int:
    """About how many rows the file has. Aligned files all have as many."""
    row = _USUAL_ROW
    if (params.reading.format or file.format()) in ("csv", "tsv", "jsonl", "text"):
        with open_bytes(file.path, lambda count: None, file.member) as opened:
            start = opened.read(_SAMPLE)
        row = max(len(start) // max(start.count(b"\n"), 1), 1)
    return _unpacked_size(file) // row


def _in_gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
