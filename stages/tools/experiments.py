"""The experiments of the present commit in 120 columns: `make experiments`.

For each task the headline scores, and the params that an experiment changes, as `dvc exp run -S` takes them. What
changes nothing of a task is left out. `dvc exp show` has a column for every param and for the hash of every file, and
shows the scores of the commit also for experiments that failed or wait.
"""

import json
import subprocess
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from stages.lib.comparison.run import HEADLINE, flat
from stages.lib.core.params import PARAMS
from stages.lib.core.process import UserError, launch

_WIDTH = 120
_NAME = 36  # columns at most
_VALUE = 40  # characters of a value that are shown


class Row(NamedTuple):
    name: str
    scores: Mapping[str, float]
    changed: Sequence[str]


def main() -> None:
    print("\n\n".join("\n".join(lines) for lines in report(*_shown())))


def _shown() -> list[dict[str, Any]]:
    """The workspace and the present commit, as DVC describes them."""
    result = subprocess.run(["dvc", "exp", "show", "--json"], capture_output=True, text=True)
    if result.returncode:
        raise UserError(result.stderr.strip().splitlines() or "dvc exp show failed")
    shown: list[dict[str, Any]] = json.loads(result.stdout)
    return shown


def report(workspace: Mapping[str, Any], commit: Mapping[str, Any]) -> Iterator[list[str]]:
    """The lines of the table of each task. Both arguments are as `dvc exp show --json` has them."""
    for path in sorted(commit["data"]["metrics"]):
        folder = path.removesuffix(HEADLINE)
        metrics = _metrics(commit, folder)
        title = ", ".join(filter(None, (folder.rstrip("/"), metrics["task"], metrics["model"])))
        yield [title, *_table(list(_rows(workspace, commit, folder)))]


def _rows(workspace: Mapping[str, Any], commit: Mapping[str, Any], folder: str) -> Iterator[Row]:
    before, scores = _params(commit, folder), _scores(commit, folder)
    yield Row(commit["name"] or commit["rev"][:7], scores, [])
    experiments = (
        (f"{own['name'] or own['revs'][0]['rev'][:7]}{_state(own)}", own["revs"][0], bool(_state(own)))
        for own in commit["experiments"] or ()
    )
    for name, own, is_unfinished in chain([("workspace", workspace, False)], experiments):
        row = Row(name, {} if is_unfinished else _scores(own, folder), _changes(before, _params(own, folder)))
        if row.changed or row.scores not in (scores, {}):
            yield row


def _state(experiment: Mapping[str, Any]) -> str:
    """Of one that is not finished: queued, running or failed."""
    executor = experiment["executor"]
    return f" ({executor['state']})" if executor else ""


def _params(revision: Mapping[str, Any], folder: str) -> dict[str, Any]:
    files = (revision["data"] or {}).get("params", {})
    return dict(flat(files.get(f"{folder}{PARAMS}", {}).get("data") or {}))


def _metrics(revision: Mapping[str, Any], folder: str) -> Mapping[str, Any]:
    files = (revision["data"] or {}).get("metrics", {})
    return files.get(f"{folder}{HEADLINE}", {}).get("data") or {}


def _scores(revision: Mapping[str, Any], folder: str) -> dict[str, float]:
    """Those with an interval: the headline scores."""
    metrics = _metrics(revision, folder)
    return {name: value for name, value in metrics.items() if f"{name}_95" in metrics}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    changed = (name for name, value in after.items() if name not in before or before[name] != value)
    return [f"{name}={_text(after[name])}" for name in changed]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return textwrap.shorten(text, _VALUE, placeholder="…")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    names = sorted({name for row in rows for name in row.scores})
    width = min(max(len(row.name) for row in rows), _NAME)
    head = f"  {'':<{width}}" + "".join(f"  {name}" for name in names)
    yield f"{head}  changes"
    for row in rows:
        cells = (f"  {row.scores.get(name, ''):>{len(name)}}" for name in names)
        start = f"  {textwrap.shorten(row.name, width, placeholder='…'):<{width}}{''.join(cells)}  "
        yield from textwrap.wrap(
            ", ".join(row.changed), _WIDTH, initial_indent=start, subsequent_indent=" " * len(start)
        ) or [start.rstrip()]


if __name__ == "__main__":
    launch(main)
