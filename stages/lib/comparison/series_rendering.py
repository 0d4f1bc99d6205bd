"""Several seeds, and shares of the training data, as text for a terminal of 80 columns and as a plot."""

import textwrap
from collections.abc import Iterator, Sequence
from html import escape

from stages.lib.comparison.rendering import WIDTH, aligned
from stages.lib.comparison.series import Figures
from stages.lib.reports.charts import Scale
from stages.lib.reports.numbers import decimals

# pixels: of one score's panel, and around its frame
_PANEL, _HEIGHT = 300, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 18, 28, 40
_STYLE = """
text { font-family: system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; font-size: 11px; fill: #57606a }
.name { font-size: 12px; font-weight: 700; fill: #1f2328 }
.frame { fill: none; stroke: #d0d7de }
.whisker { stroke: #2f6bd0; stroke-width: 1.6 }
.dot { fill: #2f6bd0 }
.course { fill: none; stroke: #2f6bd0; stroke-width: 1.2; stroke-dasharray: 4 3 }
"""


def spread_as_text(figures: Figures) -> str:
    seeds = ", ".join(map(str, figures["seeds"]))
    rows = [["score", "mean", "low", "high", "sd of seeds", "± of test"]]
    for name, own in figures["scores"].items():
        digits = decimals(own["mean"], own["mean"] - own["test_half_width"], own["mean"] + own["test_half_width"])
        numbers = (own[part] for part in ("mean", "low", "high", "sd", "test_half_width"))
        rows.append([name, *(f"{number:z.{digits}f}" for number in numbers)])
    caption = (
        f"Seeds {seeds} of {figures['task']} on {figures['examples']} test examples. Low to high: the 95 % interval of "
        "the mean over seeds; ± of test: half of the 95 % interval that the test examples give one run."
    )
    return "\n".join([*_folded(caption), *aligned(rows), "", *_sentences(figures)])


def difference_as_text(first: str, second: str, figures: Figures) -> str:
    rows = [["score", first[:9], second[:9], "change", "low", "high", "p", "verdict"]]
    for name, own in figures["scores"].items():
        digits = decimals(own["first"], own["low"], own["high"])
        means = [f"{own[side]:z.{digits}f}" for side in ("first", "second")]
        changes = [f"{own[part]:+z.{digits}f}" for part in ("difference", "low", "high")]
        rows.append([name, *means, *changes, f"{own['p_holm']:.2g}", own["verdict"]])
    caption = (
        f"{second} ({figures['seeds'][1]} seeds) against {first} ({figures['seeds'][0]} seeds) on "
        f"{figures['examples']} test examples. Low to high: the 95 % interval of the change over seeds and examples."
    )
    refused = (line for refused in figures["refused"].values() for line in _folded(f"not compared: {refused}"))
    return "\n".join([*_folded(caption), *refused, *aligned(rows)])


def curve_as_text(figures: Figures) -> str:
    rows = [["score", "examples", "value", "95 %"]]
    for name, own in figures["scores"].items():
        for place, point in enumerate(own["points"]):
            digits = decimals(point["score"], point["low"], point["high"])
            ends = f"{point['low']:z.{digits}f}-{point['high']:z.{digits}f}"
            rows.append(["" if place else name, f"{point['examples']:,}", f"{point['score']:z.{digits}f}", ends])
    caption = f"{figures['task']}, {figures['examples']} test examples; 95 %: what the test examples leave open."
    refused = (line for refused in figures["refused"].values() for line in _folded(f"not compared: {refused}"))
    return "\n".join([*_folded(caption), *refused, *aligned(rows), "", *_sentences(figures)])


def _sentences(figures: Figures) -> Iterator[str]:
    for own in figures["scores"].values():
        yield from textwrap.wrap(own["sentence"], WIDTH, initial_indent="- ", subsequent_indent="  ")


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def curve_as_svg(figures: Figures) -> str:
    """A panel for each score; the axis of examples is logarithmic, as the line is."""
    panels = [
        f'<g transform="translate({place * _PANEL} 0)">{"".join(_panel(name, own))}</g>'
        for place, (name, own) in enumerate(figures["scores"].items())
    ]
    width, title = len(panels) * _PANEL, f"Scores by the number of training examples: {escape(figures['task'])}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" width="{width}"'
            f' height="{_HEIGHT}" role="img" aria-labelledby="title">',
            f'<title id="title">{title}</title>',
            f"<style>{_STYLE}</style>",
            f'<rect width="{width}" height="{_HEIGHT}" fill="#ffffff"/>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(name: str, score: Figures) -> Iterator[str]:
    points: Sequence[Figures] = score["points"]
    across = Scale(points[0]["examples"], points[-1]["examples"], logarithmic=True)
    down = Scale(max(point["high"] for point in points), min(point["low"] for point in points))
    right, bottom = _PANEL - _RIGHT, _HEIGHT - _BOTTOM
    places = [
        (
            _LEFT + 8 + across.share(point["examples"]) * (right - _LEFT - 16),
            *(_down(down, point[part]) for part in _PARTS),
        )
        for point in points
    ]
    yield f'<text class="name" x="{_LEFT}" y="{_TOP - 10}">{escape(name)}, {score["better"]} is better</text>'
    yield f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}"/>'
    yield f'<polyline class="course" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in places)}"/>'
    for x, y, low, high in places:
        yield f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        yield f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    digits = decimals(points[-1]["score"], points[-1]["low"], points[-1]["high"])
    for value in (down.high, (down.low + down.high) / 2, down.low):
        yield f'<text x="{_LEFT - 6}" y="{_down(down, value) + 4:.1f}" text-anchor="end">{value:z.{digits}f}</text>'
    for point, (x, *_) in zip(points, places, strict=True):
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{point["examples"]:,}</text>'
    yield f'<text x="{(_LEFT + right) / 2}" y="{bottom + 32}" text-anchor="middle">training examples</text>'


_PARTS = ("score", "low", "high")


def _down(scale: Scale, value: float) -> float:
    """Pixels from the top of the panel."""
    return _TOP + 8 + scale.share(value) * (_HEIGHT - _BOTTOM - _TOP - 16)
