"""Private names of libraries that the stages use: private_names.py lists exactly those, and the libraries have them.

The source is read, not run, so code for a GPU or several processes is covered too. The source does not show which class
an attribute belongs to: a private attribute that no class of ours has is taken for a library's.
"""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec, resolve_name
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name as found_at
from typing import NamedTuple

import pytest

from tests.private_names import PRIVATE, UNDOCUMENTED, Name

LIBRARIES = {"accelerate", "peft", "tokenizers", "torch", "transformers"}
OF_NAMED_TUPLES = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}  # public in spite of the underscore


class Use(NamedTuple):
    name: str
    place: str
    parameters: list[str] | None = None  # of a method that overrides one of the library


class Class(NamedTuple):
    module: str
    node: ast.ClassDef


Found = tuple[str, int, str, list[str] | None]  # module, line, name, parameters


@pytest.mark.parametrize("name", [*PRIVATE, *UNDOCUMENTED], ids=lambda name: name.path)
def test_the_library_has_the_name(name: Name) -> None:
    library = f"{_top(name.path)} {version(_top(name.path))}"
    try:
        theirs = getattr(name.holder(), _last(name)) if name.holder else found_at(name.path)
    except (ImportError, AttributeError):
        pytest.fail(f"{library} has no {name.path}; we use it because: {name.reason}")
    for use in uses("stages"):
        if use.name == _last(name) and use.parameters is not None:
            taken = list(inspect.signature(theirs).parameters)
            assert taken == use.parameters, f"the parameters of {name.path} in {library} are not those of {use.place}"


def test_the_list_is_complete_and_has_nothing_unused() -> None:
    used, listed = {use.name for use in uses("stages")}, [_last(name) for name in PRIVATE]
    unlisted = [f"{use.name} in {use.place}" for use in uses("stages") if use.name not in listed]
    source = "".join(path.read_text() for path in sorted(Path("stages").rglob("*.py")))
    unused = sorted({*listed} - used) + [name.path for name in UNDOCUMENTED if _last(name) not in source]
    assert not unlisted, "add it to private_names.py, with the reason why no public name will do"
    assert not unused, "no longer used: remove it from private_names.py"
    assert len(listed) == len(used), "listed twice"


PLANTED = {
    "below.py": """
        from transformers import Trainer as Theirs
        class Below(Theirs):
            def _save(self, output_dir): ...
        """,
    "above.py": """
        import transformers
        from torch import _C
        from torch._dynamo import config
        from planted.below import Below
        class Above(Below):
            _load_rng_state = None
            def __init__(self): self._own = self._tr_loss
            def _check(self): super()._load_scaler(None)
        class Apart:
            def _save_checkpoint(self): self._tr_loss = self._signature_columns
        def reached(x):
            getattr(x, "_gotten", None), x._own, x._replace(), x.__dict__, x._asked.shown
            x._put = 1
        """,
}


def test_every_form_of_use_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted/__init__.py").touch()
    for name, text in PLANTED.items():
        (tmp_path / "planted" / name).write_text(inspect.cleandoc(text))
    monkeypatch.syspath_prepend(tmp_path)
    found = uses("planted")
    reached = {"_C", "_dynamo", "_gotten", "_asked", "_put"}
    inherited = {"_save", "_load_rng_state", "_tr_loss", "_load_scaler"}
    assert {use.name for use in found} == reached | inherited
    assert [use for use in found if use.parameters] == [Use("_save", "planted/below.py:3", ["self", "output_dir"])]


@cache
def uses(package: str) -> list[Use]:
    """Uses of private names of the libraries in all modules of a package."""
    folder = _file_of(package).parent
    files = [path.relative_to(folder.parent) for path in sorted(folder.rglob("*.py"))]
    places = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): str(file) for file in files}
    classes = list(chain(*map(_classes, places)))
    own = set[str]().union(*(_members(node) for _, node in classes))
    reached = chain(*(_reached(module, own) for module in places))
    inherited = chain(*map(_inherited, classes))
    return [
        Use(name, f"{places[module]}:{line}", parameters) for module, line, name, parameters in [*reached, *inherited]
    ]


def _reached(module: str, own: set[str]) -> Iterator[Found]:
    """From outside: imports, and attributes of objects other than `self`."""
    for node in _nodes(module):
        names: list[str] = []
        match node:
            case ast.Attribute(value, name) if not _is_self(value):
                names = [name]
            case ast.Call(ast.Name("getattr" | "hasattr" | "setattr" | "delattr"), [_, ast.Constant(str(name)), *_]):
                names = [name]
            case ast.Import() | ast.ImportFrom(level=0):
                paths = [f"{getattr(node, 'module', '')}.{alias.name}".strip(".") for alias in node.names]
                names = [name for path in paths if _top(path) in LIBRARIES for name in path.split(".")]
        for name in names:
            if _is_private(name) and name not in own | OF_NAMED_TUPLES:
                yield module, node.lineno, name, None  # type: ignore[attr-defined]


def _inherited(own: Class) -> Iterator[Found]:
    """From inside: attributes of `self`, and overrides, in classes below one of a library."""
    theirs = set[str]().union(*(_members(node) for module, node in _lineage(own) if _top(module) in LIBRARIES))
    for node in ast.walk(own.node):
        match node:
            case ast.FunctionDef(name) if name in theirs and node in own.node.body:
                yield own.module, node.lineno, name, list(_parameters(node.args))
            case ast.Name(name, ast.Store()) if name in theirs:
                yield own.module, node.lineno, name, None
            case ast.Attribute(value, name) if name in theirs and _is_self(value):
                yield own.module, node.lineno, name, None


def _lineage(one: Class) -> Iterator[Class]:
    """A class and all classes above it that are written in Python."""
    yield one
    for base in one.node.bases:
        path = _path(base, one.module) or ""
        above = _class_at(path)
        # some bases of a library's classes are compiled; no base of ours may be missed
        assert above or _top(one.module) in LIBRARIES or _top(path) not in LIBRARIES, f"{path} is not found"
        if above:
            yield from _lineage(above)


@cache
def _class_at(path: str) -> Class | None:
    """Where the source defines it. The path may name a module that only imports it."""
    module, _, name = path.rpartition(".")
    if not module or not _file_of(module).is_file():
        return None
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Class(module, node)
    origin = _imports(module).get(name, path)
    return _class_at(origin) if origin != path else None


@cache
def _imports(module: str) -> dict[str, str]:
    """Short names of imports in a module -> their full paths."""
    package = module if _file_of(module).name == "__init__.py" else module.rpartition(".")[0]
    found: dict[str, str] = {}
    for node in _nodes(module):
        match node:
            case ast.Import(aliases):
                found |= {
                    alias.asname or _top(alias.name): alias.name if alias.asname else _top(alias.name)
                    for alias in aliases
                }
            case ast.ImportFrom(source, aliases, level):
                place = resolve_name("." * level + (source or ""), package)
                found |= {alias.asname or alias.name: f"{place}.{alias.name}" for alias in aliases}
    return found


def _path(base: ast.expr, module: str) -> str | None:
    """The full path of a base class."""
    match base:
        case ast.Name(name):
            return _imports(module).get(name, f"{module}.{name}")
        case ast.Attribute(value, name):
            return f"{_path(value, module)}.{name}"
        case ast.Subscript(value):  # a generic class
            return _path(value, module)
    return None


@cache
def _members(node: ast.ClassDef) -> set[str]:
    """Private names that a class gives to itself or its instances."""
    found = set[str]()
    for part in ast.walk(node):
        match part:
            case ast.Attribute(value, name, ast.Store()) if _is_self(value):
                found.add(name)
            case ast.Name(name, ast.Store()) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                found.add(name)
    return set(filter(_is_private, found))


def _classes(module: str) -> list[Class]:
    return [Class(module, node) for node in _nodes(module) if isinstance(node, ast.ClassDef)]


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    lists = arguments.posonlyargs, arguments.args, [arguments.vararg], arguments.kwonlyargs, [arguments.kwarg]
    return (argument.arg for argument in chain(*lists) if argument is not None)


def _is_self(value: ast.expr) -> bool:
    match value:
        case ast.Name("self" | "cls") | ast.Call(ast.Name("super")):
            return True
    return False


def _is_private(name: str) -> bool:
    return name.strip("_") != "" and name.startswith("_") and not name.endswith("__")


@cache
def _nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(_tree(module)))


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file_of(module).read_text())


@cache
def _file_of(module: str) -> Path:
    """The file may not exist. Nothing is imported; `find_spec` would import the package of a module."""
    top, *parts = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:  # not a package, so not one that we search
        return Path(f"{module}.py")
    folder = Path(spec.submodule_search_locations[0], *parts)
    package = folder / "__init__.py"
    return package if package.is_file() else folder.with_suffix(".py")


def _top(path: str) -> str:
    return path.partition(".")[0]


def _last(name: Name) -> str:
    return name.path.rpartition(".")[2]
