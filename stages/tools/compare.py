"""Compares the scores of revisions, and says whether a difference is more than luck:
`python -m stages.tools.compare main HEAD`.

A revision is a branch, a tag, a commit, an experiment, or `workspace`: the files here. The first one is what all others
are compared with. Scores and texts of each example are read from git, DVC's cache or its remote; the workspace stays as
it is. With one revision, the workspace is compared with it.

Exit code: 0; 1 with --fail-on-regression, if a headline score is shown to be worse; 2 if there is no comparison.
"""

import json
import os
import sys
import traceback
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc_data.index import DataIndexDirError

from stages.lib.comparison.comparing import compare, describe
from stages.lib.comparison.rendering import as_markdown, as_text
from stages.lib.comparison.run import Run, read_run
from stages.lib.core.files import write_text
from stages.lib.core.process import UserError, first_line, launch
from stages.lib.reports.pages import comparison_page
from stages.tools.arguments import parser_of
from stages.tools.revisions import files_of

WORKSPACE = "workspace"
_COMMIT = 7  # characters


def main() -> None:
    arguments = _parser().parse_args()
    figures = compared(arguments.revisions if len(arguments.revisions) > 1 else [*arguments.revisions, WORKSPACE])
    text = as_markdown(figures) if arguments.markdown else as_text(figures)
    _print(text)
    if arguments.json:
        _write(arguments.json, json.dumps(figures, indent=2, allow_nan=False) + "\n")
    if arguments.html:
        _write(arguments.html, comparison_page(figures))
    if arguments.fail_on_regression and has_regression(figures):
        sys.exit(1)


def _print(text: str) -> None:
    try:
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)  # UTF-8 has no lone surrogates
    except BrokenPipeError:  # such as `compare main HEAD | head`: what Python flushes at the end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def compared(revisions: list[str]) -> dict[str, Any]:
    """The first revision against each other one.

    Raises:
        UserError: a revision can't be read, or two can't be compared.
    """
    runs = [run_of(revision) for revision in revisions]
    return {
        "revisions": [describe(run) for run in runs],
        "comparisons": [compare(runs[0], run) for run in runs[1:]],
    }


def has_regression(figures: dict[str, Any]) -> bool:
    """Whether a headline score of some revision is shown to be worse than that of the first.

    Raises:
        UserError: a headline score of the first revision can't be compared, so a regression would not be seen.
    """
    headline = figures["revisions"][0]["headline"]
    lines = [own["refused"] for own in figures["comparisons"]]
    if refused := [line for own in lines for name, line in own.items() if name in headline]:
        raise UserError(refused)
    scores = [score for own in figures["comparisons"] for score in own["scores"].values()]
    return any(score["headline"] and score["verdict"] == "worse" for score in scores)


def _parser() -> ArgumentParser:
    parser = parser_of("compare", __doc__)
    parser.add_argument("revisions", nargs="+", metavar="REVISION", help="the first is the baseline")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page of its own to this file too")
    parser.add_argument("--fail-on-regression", action="store_true", help="exit with 1 if a headline score is worse")
    return parser


def run_of(revision: str, name: str | None = None) -> Run:
    """The last run of a revision, or of WORKSPACE. `name`: what people are told, if not the revision.

    Raises:
        UserError: it can't be read.
    """
    name = name or revision
    try:
        files, folder = files_of(None if revision == WORKSPACE else revision)
        commit = WORKSPACE if revision == WORKSPACE else files.repo.get_rev()[:_COMMIT]
        return read_run(name, commit, partial(_read, files, folder), partial(_fetch, files, folder))
    except (DvcException, OSError, ImportError) as error:  # the last if the remote's extra is not installed
        raise UserError(f"{name}: {first_line(error)}") from None


def _fetch(files: DVCFileSystem, folder: str, path: str, target: Path) -> None:
    files.get(files.join(folder, path), str(target), recursive=True)


def _read(files: DVCFileSystem, folder: str, path: str) -> bytes:
    try:
        content: bytes = files.read_bytes(files.join(folder, path))
    except DataIndexDirError as error:  # of a folder that DVC tracks, also where the remote can't be reached
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise OSError(f"{path}: {error.__cause__}") from None
    return content


def _without_false_alarm() -> None:
    """An unforeseen error ends with 2: Python's own 1 would tell a regression."""
    try:
        main()
    except (UserError, SystemExit):
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(2)


if __name__ == "__main__":
    launch(_without_false_alarm)
