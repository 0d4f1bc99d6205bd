"""Downloads data, models and the run cache: `python -m stages.tools.pull`, or `make pull`.

Then the workspace has all outs that dvc.lock names, and `make repro` has no stage to run.
"""

from collections.abc import Iterator

from dvc.exceptions import CheckoutError

from stages.lib.core.process import UserError, launch
from stages.tools.objects import Project, files_of, opened_project


def main() -> None:
    with opened_project() as project:
        print(f"from {project.remote.name}", flush=True)
        try:
            counts = project.did(lambda: project.repo.pull(run_cache=True))["stats"]
        except CheckoutError as error:
            raise UserError(_reasons(project, error.target_infos)) from None
    print(", ".join(f"{count} files {what}" for what, count in counts.items() if count) or "all was here already")


def _reasons(project: Project, paths: list[str]) -> Iterator[str]:
    outs = [out for out in project.outs() if out.path in paths]
    lacking = {out.path for out in outs if project.cache.lacking(files_of(out, [project.cache]))}
    if lacking:
        name = project.remote.name
        yield f"{', '.join(sorted(lacking))}: damaged or missing in {name}: run `make repair` where it was made"
    if written := sorted({*paths} - lacking):
        yield f"{', '.join(written)}: can't be written here: is the disk full? Make room, and run `make pull` again"


if __name__ == "__main__":
    launch(main)
