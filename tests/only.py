"""Runs a module where only some packages are installed:

python -m tests.only PACKAGE,... MODULE [ARGUMENT ...]

The module finds the standard library, gpt1, the packages and what these require by their metadata.
"""

from __future__ import annotations

import re
import runpy
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import Any


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(packages: Sequence[str]) -> set[str]:
    """The distributions that `packages` are and require, extras aside."""
    found, waiting = set[str](), list(packages)
    while waiting:
        name = normal(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # for another system
            continue
        waiting += [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]
    return found


class Only(MetaPathFinder):
    """Asks `finders` for modules of the given top-level names, and finds no other."""

    def __init__(self, names: set[str], finders: Sequence[MetaPathFinder]) -> None:
        self._names, self._finders = names, finders

    def find_spec(self, name: str, *where: Any) -> ModuleSpec | None:
        finders = self._finders if name.partition(".")[0] in self._names else []
        found = (finder.find_spec(name, *where) for finder in finders)
        return next((spec for spec in found if spec is not None), None)


def main() -> None:
    packages, module, *arguments = sys.argv[1:]
    sysconfig.get_config_vars()  # reads a module whose name depends on the machine
    allowed = closure(packages.split(","))
    packages_of = packages_distributions().items()
    names = {name for name, by in packages_of if allowed & set(map(normal, by))}
    names |= {*sys.stdlib_module_names, "gpt1"}
    kept = names | {"__main__"}
    for name in [name for name in sys.modules if name.partition(".")[0] not in kept]:
        del sys.modules[name]
    sys.meta_path[:] = [Only(names, list(sys.meta_path))]  # type: ignore[list-item]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
