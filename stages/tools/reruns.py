"""Says which stages `dvc repro` would run, and why: `python -m stages.tools.reruns`, or `make reruns`.

`dvc repro --dry` shows what stands behind a stage that would run as unchanged; here it is "may run", as DVC decides
only when it sees whether the outs in between came out the same.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.lib.core.params import PIPELINE
from stages.lib.core.process import UserError, launch
from stages.tools.tasks import pipelines

_SHOWN = 5


def main() -> None:
    stages = YAML(typ="safe", pure=True).load(PIPELINE)["stages"]
    for folder in pipelines():
        if folder.name:
            print(f"{folder}:")
        print("\n".join(report(stages, _status(folder))), flush=True)


def report(stages: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    """A line for each stage. `stages` is that part of dvc.yaml, in the order of the chain; `status` is what
    `dvc status --json` prints: for each changed stage a list of {what: {path: how}} or of words."""
    stale: set[str] = set()
    for name, stage in stages.items():
        above = [other for other in stages if other in stale and _feeds(stages[other], stage)]
        if name in status:
            reasons = list(_reasons(status[name]))
            more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
            yield f"{name:<22}would run: {', '.join(reasons[:_SHOWN])}{more}"
        elif above:
            yield f"{name:<22}may run: if {' or '.join(above)} comes out different"
        else:
            yield f"{name:<22}is up to date"
        if name in status or above:
            stale.add(name)


def _status(folder: Path) -> Mapping[str, Any]:
    result = subprocess.run(["dvc", "status", "--json", PIPELINE], cwd=folder, capture_output=True, text=True)
    if result.returncode:
        raise UserError(result.stderr.strip().splitlines() or "dvc status failed")
    status: Mapping[str, Any] = json.loads(result.stdout)
    return status


def _feeds(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> bool:
    return not set(_paths(upper["outs"])).isdisjoint(lower["deps"])


def _paths(entries: Iterable[str | Mapping[str, Any]]) -> Iterator[str]:
    """An out is a path, or a path with options below it."""
    return (entry if isinstance(entry, str) else next(iter(entry)) for entry in entries)


def _reasons(changes: Iterable[str | Mapping[str, Any]]) -> Iterator[str]:
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for paths in change.values():
            for path, how in paths.items():
                # of a params file, how each parameter has changed; of any other path, how it has
                yield from (
                    f"{name} {state}" for name, state in (how if isinstance(how, dict) else {path: how}).items()
                )


if __name__ == "__main__":
    launch(main)
