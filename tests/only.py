"""Runs a module where only some packages are installed:

python -m tests.only PACKAGE,... MODULE [ARGUMENT ...]

The module finds the standard library, gpt1, the packages and what these require by their metadata.
"""

import runpy
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """The packages that these are and bring here, by the metadata of what is installed."""
    seen = set[tuple[str, frozenset[str]]]()
    waiting = [(requirement, frozenset({""})) for requirement in requirements]
    while waiting:
        one, extras = waiting.pop()
        key = (canonicalize_name(one.name), frozenset({"", *one.extras}))
        applies = one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)
        if applies and key not in seen:
            seen.add(key)
            with suppress(PackageNotFoundError):
                waiting += [(Requirement(line), key[1]) for line in requires(one.name) or []]
    return {name for name, _ in seen}


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
    allowed = closure(map(Requirement, packages.split(",")))
    packages_of = packages_distributions().items()
    names = {name for name, by in packages_of if allowed & set(map(canonicalize_name, by))}
    names |= {*sys.stdlib_module_names, "gpt1"}
    kept = names | {"__main__"}
    for name in [name for name in sys.modules if name.partition(".")[0] not in kept]:
        del sys.modules[name]
    sys.meta_path[:] = [Only(names, list(sys.meta_path))]  # type: ignore[list-item]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
