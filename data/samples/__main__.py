"""Writes the sample data of every scenario, data/raw/<scenario>/: `python -m data.samples`.

The samples are invented: each module here composes one, the same bytes every time.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path

TARGET = Path("data/raw")

_COMPOSERS = Path(__file__).parent


def main() -> None:
    for path, content in files():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())


def files() -> Iterator[tuple[Path, str]]:
    """Path and content of every file of every sample."""
    for module in sorted(_COMPOSERS.glob("[a-z]*.py")):
        composer = importlib.import_module(f"data.samples.{module.stem}")
        if hasattr(composer, "render"):
            yield from ((TARGET / module.stem / name, content) for name, content in composer.render().items())


if __name__ == "__main__":
    main()
