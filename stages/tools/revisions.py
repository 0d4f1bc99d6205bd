"""The files of a revision: a branch, a tag, a commit or an experiment; read from git, DVC's cache or its remote."""

from dvc.api import DVCFileSystem


def files_of(revision: str | None) -> tuple[DVCFileSystem, str]:
    """The files, and in them the present folder: that of the project, or of a task. None: those of the workspace."""
    here = DVCFileSystem()
    folder: str = here.getcwd()  # at a revision, DVC would look into the project's
    if revision is None:
        return here, folder
    # the remotes are those of today: the revision may be older than its remote
    config = {section: here.repo.config[section] for section in ("core", "remote") if section in here.repo.config}
    return DVCFileSystem(rev=revision, config=config), folder
