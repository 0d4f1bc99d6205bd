"""A comparison as text: for a terminal of 80 columns, or as Markdown for a pull request."""

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stages.lib.core.markdown import table
from stages.lib.reports.numbers import decimals

WIDTH = 80
_SHOWN = 3  # examples that became worse, and that became better, in a terminal
_LINES = 2  # of each text there
_NAME = 9  # columns for the name of a revision

Figures = Mapping[str, Any]


def as_text(figures: Figures) -> str:
    return "\n\n".join("\n".join(_in_terminal(own)) for own in figures["comparisons"])


def as_markdown(figures: Figures) -> str:
    return "\n".join(line for own in figures["comparisons"] for line in _in_markdown(own))


def _in_terminal(own: Figures) -> Iterator[str]:
    yield from textwrap.wrap(own["verdict"], WIDTH)
    yield from (line for note in _remarks(own) for line in wrapped(note, "  "))
    yield from ("", *textwrap.wrap(_caption(own), WIDTH), *aligned(_score_rows(own, _NAME)))
    parts = list(_part_rows(own, _NAME, list(_headline(own))[:1]))
    yield from _section("Parts of the test examples:", aligned(parts) if len(parts) > 1 else ())
    yield from _section("Examples that changed most:", _examples(own))
    yield from _section("Params that differ:", (line for row in _param_rows(own) for line in wrapped(row, "  ")))
    yield from _section("Data and code that differ:", (f"  {row['what']}" for row in own["data"]))


def _in_markdown(own: Figures) -> Iterator[str]:
    yield from (f"**{own['verdict']}**", "", _caption(own), "", *(f"- {note}" for note in _remarks(own)))
    header, *rows = _score_rows(own, None)
    yield from table("Scores", header, rows)
    header, *rows = _part_rows(own, None, list(_headline(own)))
    yield from table("Parts of the test examples", header, rows) if rows else ()
    header = ["id", "source", "references", own["first"], own["second"], "score"]
    yield from (
        table("Examples that changed most", header, map(_example_cells, own["changed"])) if own["changed"] else ()
    )
    differing = [*own["params"], *({**row, "name": row["what"]} for row in own["data"])]
    cells = ([row["name"], _plain(row["first"]), _plain(row["second"])] for row in differing)
    yield from table("What differs", ["", own["first"], own["second"]], cells) if differing else ()
    yield ""


def _remarks(own: Figures) -> Iterator[str]:
    yield from own["notes"]
    yield from (f"not compared: {line}" for line in own["refused"].values())


def _caption(own: Figures) -> str:
    groups = f" in {own['groups']} independent groups" if own["groups"] < own["examples"] else ""
    return (
        f"{own['first']} and {own['second']} on {own['examples']} examples{groups}. "
        "Low to high: the 95 % interval of the change."
    )


def _headline(own: Figures) -> Iterator[str]:
    return (name for name, score in own["scores"].items() if score["headline"])


def _score_rows(own: Figures, name_width: int | None) -> Iterator[list[str]]:
    """Headline scores first. p is the corrected one; won, lost and tied count examples."""
    revisions = [own[side][:name_width] for side in ("first", "second")]
    yield ["score", *revisions, "change", "low", "high", "p", "won/lost/tied"]
    for name, score in sorted(own["scores"].items(), key=lambda item: not item[1]["headline"]):
        counts = f"{score['wins']}/{score['losses']}/{score['ties']}"
        yield [name, *_numbers(score), f"{score['p_holm']:.2g}", counts]


def _part_rows(own: Figures, name_width: int | None, names: Sequence[str]) -> Iterator[list[str]]:
    revisions = [own[side][:name_width] for side in ("first", "second")]
    score_header = ["score"] if len(names) > 1 else []
    yield ["part", "examples", *score_header, *revisions, "change", "low", "high"]
    for row in own["breakdowns"]:
        if row["score"] in names:
            size = f"{'small: ' if row['small'] else ''}{row['examples']}"
            yield [f"{row['by']}: {row['value']}", size, *([row["score"]] if score_header else []), *_numbers(row)]


def _numbers(score: Figures) -> list[str]:
    """Of both, their difference, and its interval."""
    digits = decimals(score["first"], score["low"], score["high"])
    scores = [f"{score[side]:z.{digits}f}" for side in ("first", "second")]
    return scores + [f"{score[name]:+z.{digits}f}" for name in ("difference", "low", "high")]


def _example_cells(row: Figures) -> list[object]:
    return [row["id"], row["source"], " / ".join(row["references"]), row["first"], row["second"], _score_of(row)]


def _score_of(row: Figures) -> str:
    return f"{row['verdict']}, {row['score']} {row['first_score']:.4g} -> {row['second_score']:.4g}"


def _examples(own: Figures) -> Iterator[str]:
    for verdict in ("worse", "better"):
        for row in [row for row in own["changed"] if row["verdict"] == verdict][:_SHOWN]:
            yield f"  {row['id']}: {_score_of(row)}"
            texts = {"reference": row["references"][0], own["first"]: row["first"], own["second"]: row["second"]}
            for name, text in texts.items():
                yield from wrapped(f"{name[:_NAME]:<{_NAME}}  {text}", "    ", _NAME + 2, _LINES)


def _param_rows(own: Figures) -> Iterator[str]:
    return (f"{row['name']}: {_plain(row['first'])} -> {_plain(row['second'])}" for row in own["params"])


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    body = list(lines)
    return iter(["", title, *body] if body else [])


def aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell; all but the first to the right. The first is shortened where it must."""
    cells = list(rows)
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    gap = "  " if first + sum(others) + 2 * len(others) <= WIDTH else " "
    first = min(first, WIDTH - sum(others) - len(gap) * len(others))
    for name, *numbers in cells:
        shown = name if len(name) <= first else f"{name[: first - 1]}…"
        yield gap.join([shown.ljust(first), *map(str.rjust, numbers, others)])


def wrapped(text: str, indent: str, hanging: int = 2, lines: int | None = None) -> list[str]:
    """`hanging`: how much further the lines after the first are indented."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + hanging * " ",
        max_lines=lines,
        placeholder=" …",
    )
