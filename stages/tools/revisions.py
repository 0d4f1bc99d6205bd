"""The files of a revision: a branch, a tag, a commit or an experiment; read from git, DVC's cache or its remote."""

from dvc.api import DVCFileSystem
from dvc.scm import RevError, resolve_rev
from scmrepo.git import Git


def files_of(revision: str | None) -> tuple[DVCFileSystem, str]:
    """The files, and in them the present folder: that of the project, or of a task. None: those of the workspace.

    Raises:
        RevError: there is no such revision.
    """
    here = DVCFileSystem()
    folder: str = here.getcwd()  # at a revision, DVC would look into the project's
    if revision is None:
        return here, folder
    # the remotes are those of today: the revision may be older than its remote
    config = {section: here.repo.config[section] for section in ("core", "remote") if section in here.repo.config}
    return DVCFileSystem(rev=_commit(here.repo.scm, revision), config=config), folder


def _commit(scm: Git, revision: str) -> str:
    """A short name, such as `bf16`, can be the beginning of the id of a file: git would take that for a revision."""
    try:
        return str(resolve_rev(scm, f"{resolve_rev(scm, revision)}^{{commit}}"))
    except RevError:
        raise RevError(f"unknown Git revision '{revision}'") from None
