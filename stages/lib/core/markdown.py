"""Reports as Markdown tables."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stages.lib.core.files import write_text

_MAX_CHARACTERS = 800  # per cell


def write_page(path: Path, title: str, sections: Iterable[Iterable[str]]) -> None:
    write_text(path, "\n".join([f"# {title}", *(line for section in sections for line in section), ""]))


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    for cells in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(_cell(str(cell)) for cell in cells) + " |"


def _cell(text: str) -> str:
    shown = text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} … ({len(text):,} characters)"
    # backslashes first: the ones added later escape bars
    escaped = shown.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ↵ ".join(escaped.encode("utf-8", "backslashreplace").decode().splitlines())
