"""Trains on shares of train, and says what more data is worth: `python -m stages.tools.learning_curve`.

The shares are numbers or fractions of train, such as `1/8 1/4 1/2 1`; without any, 1/16 1/8 1/4 1/2 1. A smaller share
is a part of a larger one, and validation and test stay the same (`prepare.train_share`). Each run is an experiment of
DVC: the workspace stays as it is, and a run that is there is not made again.

Writes metrics/learning_curve.json, and metrics/learning_curve.svg: each headline score against the number of examples.
"""

import json
from argparse import ArgumentTypeError
from fractions import Fraction
from pathlib import Path

from stages.lib.comparison.learning_curve import learning_curve
from stages.lib.comparison.series_rendering import curve_as_svg, curve_as_text
from stages.lib.core.files import write_json, write_text
from stages.lib.core.process import launch
from stages.tools.arguments import parser_of, positive
from stages.tools.variants import Variants, complete, present_value

TARGET, PLOT = Path("metrics/learning_curve.json"), Path("metrics/learning_curve.svg")

_PARAMETER = "prepare.train_share"
_DEFAULT = ("1/16", "1/8", "1/4", "1/2", "1")
_DIGITS = 6  # of a share in params.yaml


def main() -> None:
    parser = parser_of("learning_curve", __doc__)
    parser.add_argument("shares", nargs="*", type=_share, default=[*map(_share, _DEFAULT)], metavar="SHARE")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at once, each with its share")
    arguments = parser.parse_args()
    shares = sorted(set(arguments.shares))
    present_value(_PARAMETER)
    found = complete(_PARAMETER, shares, arguments.jobs)
    figures = learning_curve({_size(found, share): found.run(share, f"share {share:g}") for share in shares})
    print(curve_as_text(figures), flush=True)
    write_json(TARGET, figures)
    write_text(PLOT, curve_as_svg(figures))


def _share(text: str) -> float:
    try:
        share = round(float(Fraction(text)), _DIGITS)
    except (ValueError, ZeroDivisionError):
        share = 0.0
    if not 0 < share <= 1:
        raise ArgumentTypeError(f"`{text}` is no share of train, such as 1/4 or 0.25")
    return share


def _size(found: Variants, share: float) -> int:
    """Training examples."""
    return int(json.loads(found.content(share, "metrics/prepare.json"))["examples"]["train"])


if __name__ == "__main__":
    launch(main)
