"""Trains with several seeds, and says how much of a score is luck: `python -m stages.tools.seeds 5`.

The first seed is that of params.yaml, whose finished run counts; the others are the next numbers. Each run is an
experiment of DVC: the workspace stays as it is, and a run that is there is not made again. Without a number, the runs
that are there are told.

With `--against REVISION`, the mean scores are compared with those of a branch, tag, commit or experiment that has been
trained with several seeds too: its runs are made by the same command where it is checked out.

Writes metrics/seeds.json.
"""

from pathlib import Path
from typing import Any

from stages.lib.comparison.run import Run
from stages.lib.comparison.seeds import FEWEST, difference, spread
from stages.lib.comparison.series_rendering import difference_as_text, spread_as_text
from stages.lib.core.files import write_json
from stages.lib.core.process import UserError, launch
from stages.tools.arguments import parser_of, positive
from stages.tools.compare import WORKSPACE
from stages.tools.variants import Variants, complete, finished, present_value

TARGET = Path("metrics/seeds.json")

_PARAMETER = "fit.seed"


def main() -> None:
    parser = parser_of("seeds", __doc__)
    parser.add_argument(
        "count", nargs="?", type=positive, metavar="COUNT", help="seeds, the one of params.yaml included"
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at once, each with its share")
    parser.add_argument("--against", metavar="REVISION", help="compare with the seeds of this revision")
    arguments = parser.parse_args()
    own = _runs(_own(arguments.count, arguments.jobs), WORKSPACE)
    figures: dict[str, Any] = spread(own)
    print(spread_as_text(figures), flush=True)
    if arguments.against:
        others = _runs(finished(_PARAMETER, arguments.against), arguments.against)
        figures["against"] = {"revision": arguments.against, **difference(list(others.values()), list(own.values()))}
        print(f"\n{difference_as_text(arguments.against, WORKSPACE, figures['against'])}")
    write_json(TARGET, figures)


def _own(count: int | None, jobs: int) -> Variants:
    """The runs of the workspace's settings, the missing ones of `count` made."""
    first = int(present_value(_PARAMETER))
    if count is None:
        return finished(_PARAMETER)
    return complete(_PARAMETER, range(first, first + count), jobs)


def _runs(variants: Variants, revision: str) -> dict[int, Run]:
    """
    Raises:
        UserError: there are fewer than two.
    """
    seeds = sorted(map(int, variants.revisions))
    if len(seeds) < FEWEST:
        raise UserError(
            f"{revision}: has been trained with seed {seeds[0]} alone: run `python -m stages.tools.seeds 3` "
            f"{'here' if revision == WORKSPACE else 'where it is checked out'}"
        )
    return {seed: variants.run(seed, f"seed {seed} of {revision}") for seed in seeds}


if __name__ == "__main__":
    launch(main)
