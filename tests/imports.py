"""The project's own modules that a module imports, directly or not, read from the source."""

import ast
from pathlib import Path


def closure(module: Path) -> set[str]:
    """Paths from the top folder, `module` among them; files without code are left out."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        file = waiting.pop()
        if str(file) not in found:
            found.add(str(file))
            waiting += imports(file)
    return {file for file in found if Path(file).stat().st_size > 0}


def imports(file: Path) -> list[Path]:
    """Files of the project's own modules that this one names in its imports, and of the packages above them."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            modules += [str(node.module)] + [f"{node.module}.{alias.name}" for alias in node.names]
    return [path for module in modules for path in _files(module)]


def _files(module: str) -> list[Path]:
    """The module's own file, and those of the packages above it, which Python runs first."""
    parts = module.split(".")
    candidates = [Path(*parts[:depth]) / "__init__.py" for depth in range(1, len(parts) + 1)]
    return [path for path in [*candidates, Path(*parts).with_suffix(".py")] if path.is_file()]
