"""What Python files import, read from their source and without running it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gpt1.errors import UserError


def is_dotted(name: object) -> bool:
    """Whether `name` is that of a module in a package."""
    return isinstance(name, str) and "." in name and all(part.isidentifier() for part in name.split("."))


def module_file(folder: Path, module: str) -> Path | None:
    """The file of `module` below `folder`; None where there is none."""
    path = folder.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_name(f"{path.name}.py")) if file.is_file()), None)


def closure(modules: Iterable[str], find: Callable[[str], Path | None]) -> dict[str, Path]:
    """`modules` and everything they import that `find` has a file for: module -> file. A module's packages belong to it."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    seen = set(waiting)
    while waiting:
        module = waiting.pop()
        names = {module.rpartition(".")[0]} - {""}
        if file := find(module):
            found[module] = file
            names.update(imported_by(file, module))
        waiting += sorted(names - seen)
        seen |= names
    return found


@functools.cache
def imported_by(file: Path, module: str) -> frozenset[str]:
    """The absolute names of all that `module` imports, in functions too; `from a import b` gives `a.b`, a module or not.

    What only a type checker imports is left out. UserError for a file that is no Python.
    """
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        where = f"{file}:{error.lineno}" if isinstance(error, SyntaxError) else str(file)
        raise UserError(f"{where}: not Python ({getattr(error, 'msg', error)}); correct it") from None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in _imports(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
            continue
        base = node.module or ""
        if node.level:
            parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            base = f"{parent}.{base}".strip(".")
        names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return frozenset(names - {""})


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from _imports(ast.Module([other], []))
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _imports(child)
