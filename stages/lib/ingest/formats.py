"""The reader of each file format, and the format of each ending. All of them work in bounded memory."""

from collections.abc import Callable, Iterator

from stages.lib.ingest.arrow_files import read_arrow, read_parquet
from stages.lib.ingest.delimited import read_csv, read_tsv
from stages.lib.ingest.json_files import read_json, read_jsonl
from stages.lib.ingest.rows import Row, Source
from stages.lib.ingest.spreadsheets import read_xlsx
from stages.lib.ingest.text_files import read_dialog, read_text

READERS: dict[str, Callable[[Source], Iterator[Row]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "json": read_json,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "xlsx": read_xlsx,
    "text": read_text,
    "dialog": read_dialog,
}
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".xlsx": "xlsx",
    ".txt": "text",
}
