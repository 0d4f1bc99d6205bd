"""Reads files of plain text: free text, bAbI's dialogues, and aligned files. Only \\n ends a line."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import zip_longest

from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.rows import Row, Source, encoding_problem

Line = tuple[int, str]  # its number in the file, from 1, and its text with the line end


def read_text(source: Source) -> Iterator[Row]:
    """A row is a line, a paragraph or the file, as `reading.text_row` says."""
    if source.reading.text_row == "file":
        own = list(source.lines())
        yield _text_row(own[0][0] if own else 1, "".join(text for _, text in own), len(own))
    elif source.reading.text_row == "paragraph":
        for block in _blocks(source):
            yield _text_row(block[0][0], "\n".join(text.rstrip("\r\n") for _, text in block), len(block))
    else:
        for number, text in source.lines():
            if text.strip():
                yield _text_row(number, text.rstrip("\r\n"), 1)
            else:
                source.skipped["blank"] += 1


def read_dialog(source: Source) -> Iterator[Row]:
    """The format of bAbI's dialogues: lines `number user<TAB>bot`; a line without a tab is a fact; a blank line ends a
    dialogue."""
    return map(_dialog, _blocks(source))


def read_aligned(sources: dict[str, Source]) -> Iterator[Row]:
    """Line n of every file is row n, with one value per file.

    Raises:
        UserError: the files have different numbers of lines, so that lines do not match.
    """
    with ExitStack() as opened:
        # a \r or U+2028 inside a line must not shift the lines below it
        files = [opened.enter_context(source.text("\n")) for source in sources.values()]
        counts = [0] * len(files)
        for number, lines in enumerate(zip_longest(*files), start=1):
            counts = [n + (line is not None) for n, line in zip(counts, lines, strict=True)]
            if None not in lines:
                texts = [line.rstrip("\r\n") for line in lines]
                yield Row(number, dict(zip(sources, texts, strict=True)), encoding_problem(texts))
    if len(set(counts)) > 1:
        lengths = ", ".join(f"{source.name} {n:,}" for source, n in zip(sources.values(), counts, strict=True))
        raise UserError(f"aligned files must have the same number of lines: {lengths}")


def _blocks(source: Source) -> Iterator[list[Line]]:
    """The lines between blank lines."""
    block: list[Line] = []
    for number, line in source.lines():
        if line.strip():
            block.append((number, line))
        else:
            source.skipped["blank"] += 1
            if block:
                yield block
            block = []
    if block:
        yield block


def _text_row(number: int, text: str, lines: int) -> Row:
    return Row(number, {"text": text}, encoding_problem([text]), lines)


def _dialog(block: list[Line]) -> Row:
    messages: list[dict[str, str]] = []
    raw = "".join(line for _, line in block).rstrip("\r\n")
    problem = encoding_problem([raw])
    for number, line in block:
        problem = problem or _add_messages(messages, line.rstrip("\r\n"), number)
    return Row(block[0][0], {"raw": raw} if problem else {"messages": messages}, problem, len(block))


def _add_messages(messages: list[dict[str, str]], line: str, number: int) -> RejectedRow | None:
    turn, space, text = line.partition(" ")
    if not (turn.isdecimal() and space):
        return RejectedRow("bad_messages", f"line {number} does not begin with the number of the turn")
    user, tab, bot = text.partition("\t")
    if not tab:
        messages.append({"role": "tool", "content": user})
    else:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": bot}]
    return None
