"""What Python files import, read from their source and without running it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

from gpt1.errors import UserError


def is_dotted(name: object) -> bool:
    """Whether `name` is that of a module in a package."""
    parts = name.split(".") if isinstance(name, str) else []
    return len(parts) > 1 and all(map(str.isidentifier, parts))


def module_file(folder: Path, module: str) -> Path | None:
    """The file of `module` below `folder`; None where there is none."""
    path = folder.joinpath(*module.split("."))
    files = path / "__init__.py", path.with_name(f"{path.name}.py")
    return next((file for file in files if file.is_file()), None)


def closure(modules: Iterable[str], find: Callable[[str], Path | None]) -> dict[str, Path]:
    """`modules` and everything they import that `find` has a file for: module -> file.

    A module's packages belong to it.
    """
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
    """The absolute names of all that `module` imports, in functions too; `from a import b` gives
    `a.b`, a module or not.

    What only a type checker imports is left out. UserError for a file that is no Python.
    """
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
        nodes = list(_imports(tree))
    except (SyntaxError, ValueError) as error:
        line, problem = getattr(error, "lineno", None), getattr(error, "msg", error)
        where = f"{file}:{line}" if line else str(file)
        raise UserError(f"{where}: not valid Python ({problem}); fix it") from None
    except (RecursionError, MemoryError):
        advice = "split its longest expression or `elif` chain"
        raise UserError(f"{file}: nested too deeply to parse; {advice}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
            continue
        base = node.module or ""
        if node.level:
            parents = package.split(".") if package else []
            if len(parents) < node.level:
                # Beyond the top: Python refuses it, and the file tries another import then
                continue
            base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
        names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return frozenset(names - {""})


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    waiting = [tree]  # no recursion: each `elif` is inside the one before it
    while waiting:
        node = waiting.pop()
        for child in node.orelse if _is_for_checkers(node) else ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child
            elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                waiting.append(child)


def _is_for_checkers(node: ast.AST) -> TypeGuard[ast.If]:
    """Whether it is `if TYPE_CHECKING:` or `if typing.TYPE_CHECKING:`."""
    test = node.test if isinstance(node, ast.If) else None
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))
