"""Writes the sample data of every scenario, data/raw/<scenario>/: `python -m stages.tools.compose_samples`.

The samples are invented: each module of `stages.tools.samples` composes one, the same bytes every time.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from stages.tools import samples

TARGET = Path("data/raw")


def main() -> None:
    for path, content in files():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())


def files() -> Iterator[tuple[Path, str]]:
    """Path and content of every file of every sample."""
    for module in pkgutil.iter_modules(samples.__path__):
        composer = importlib.import_module(f"{samples.__name__}.{module.name}")
        if hasattr(composer, "render"):
            yield from ((TARGET / module.name / name, content) for name, content in composer.render().items())


if __name__ == "__main__":
    main()
