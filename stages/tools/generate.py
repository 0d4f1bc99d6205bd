"""Lets a trained model answer: `python -m stages.tools.generate [FOLDER]`.

In a terminal, it asks for each field of the scenario's source, and streams the answer. A conversation goes on until
/new. With --input and --output it answers each row of a file, whose columns are those fields; a run that was killed
goes on where it was. Rows are cleaned, encoded and decoded as in the run that has made the model.

FOLDER is one that export_model has written. Without it, the model is that of this workspace, or with --rev of another
branch, tag or commit, from DVC's cache or its remote.
"""

import os
from argparse import ArgumentParser, Namespace
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stages.lib.core.process import UserError, first_line, launch
from stages.tools.arguments import parser_of

if TYPE_CHECKING:
    from stages.lib.inference.trained import Trained


def main() -> None:
    arguments = _parser().parse_args()
    _check(arguments)
    # heavy: not before the command line is known to be right
    from stages.lib.inference.batch import answer_file
    from stages.lib.inference.session import Session
    from stages.lib.models.devices import configure_gpu

    configure_gpu()
    model = _model(arguments)
    if arguments.input is None:
        Session(model).run()
    else:
        count = answer_file(model, arguments.input, arguments.output)
        print(f"{arguments.output}: {count:,} predictions")


def _parser() -> ArgumentParser:
    parser = parser_of("generate", __doc__)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="an exported model")
    parser.add_argument("--rev", metavar="REVISION", help="take the model of this revision of the project")
    parser.add_argument("--input", type=Path, metavar="FILE", help="rows: .csv, .jsonl, .txt, or another known format")
    parser.add_argument("--output", type=Path, metavar="OUT.jsonl", help="one prediction a line, in their order")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the code that is in FOLDER run")
    return parser


def _check(arguments: Namespace) -> None:
    if (arguments.input is None) != (arguments.output is None):
        raise UserError("generate: --input and --output go together")
    if arguments.rev is not None and arguments.folder is not None:
        raise UserError("generate: --rev is a revision of the project, and FOLDER has one model; give one of them")


def _model(arguments: Namespace) -> "Trained":
    from stages.lib.inference.trained import of_folder, of_run

    if arguments.folder is not None:
        return of_folder(arguments.folder, arguments.trust_remote_code)
    if arguments.rev is None:
        return of_run()
    with TemporaryDirectory() as folder, chdir(_checked_out(arguments.rev, Path(folder))):
        return of_run()


def _checked_out(revision: str, target: Path) -> Path:
    """The folder below the target that has what this revision has of its run. The workspace stays as it is."""
    from dvc.exceptions import DvcException

    from stages.lib.inference.trained import checkout_run
    from stages.tools.revisions import files_of

    try:
        files, folder = files_of(revision)
        project = target / folder.lstrip("/")

        def fetch(path: str) -> None:
            local = os.path.normpath(project / path)  # the base of a task may be above it
            os.makedirs(os.path.dirname(local), exist_ok=True)
            files.get(os.path.normpath(files.join(folder, path)), local, recursive=True)

        checkout_run(fetch, project)
    except FileNotFoundError as error:
        raise UserError(
            f"{revision}: {first_line(error)}: its model is neither in DVC's cache nor in its remote: run `make pull` "
            f"on that revision, or `dvc push` where it was made"
        ) from None
    except (DvcException, OSError, ImportError) as error:  # the last if the remote's extra is not installed
        raise UserError(f"{revision}: {first_line(error)}") from None
    return project


if __name__ == "__main__":
    launch(main)
