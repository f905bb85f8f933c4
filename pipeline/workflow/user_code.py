"""The user's own modules: stages, tasks and variants of the model that a workflow names, and the
helpers these import.

They are in the folder of the workflow's file. That folder is never on `sys.path`, where any folder
in it would answer for a package of the same name. Instead a finder, the last of `sys.meta_path`,
knows the few names that the workflow needs:

    my         from `uses: my.longest_words` or `task: my.weather`
    variants   from `model: variants.py:ReLU`
    helpers    a file or folder beside the workflow that one of those modules imports
    counting   a file or folder beside the module that imports it: my/counting.py

Every Ray worker installs it before anything else (`install_in_worker`), by the environment variable
that its job has.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from gpt1.errors import UserError
from pipeline.workflow.imports import closure, imported_by, module_file

ROOT = Path(__file__).resolve().parents[2]
PROJECT = frozenset({"gpt1", "stages", "pipeline"})
VARIABLE = "GPT1_USER_CODE"
"""Of a run's workers, and of a submitted job: the user's modules as JSON."""


@dataclass(frozen=True)
class UserCode:
    """`places`: top-level module -> the folder that holds it, relative to `folder`; as pairs, so
    that it can be hashed.
    """

    folder: Path
    places: tuple[tuple[str, str], ...] = ()

    @property
    def entries(self) -> list[str]:
        """The files and folders of `folder` that the modules are in, which is what another
        machine needs.
        """
        found = set()
        for name, place in self.places:
            file = module_file(self.folder / place, name)
            is_here = file is not None and file.parent == self.folder
            found.add(file.name if file and is_here else place.partition("/")[0] or name)
        return sorted(found)

    def file(self, module: str) -> Path | None:
        """The file of a module of the user's; None for any other."""
        place = dict(self.places).get(module.partition(".")[0])
        return None if place is None else module_file(self.folder / place, module)

    def runtime_env(self, folder: str | None = None) -> dict[str, Any]:
        """What of Ray's runtime environment lets workers import the modules, which they find in
        `folder`.
        """
        if not self.places:
            return {}
        value = json.dumps({"folder": folder or str(self.folder), "places": self.places})
        hook = f"{__name__}.{install_in_worker.__name__}"
        return {"env_vars": {VARIABLE: value}, "worker_process_setup_hook": hook}


NONE = UserCode(Path())


class _Finder(MetaPathFinder):
    """Finds the top-level modules of `code`; what is inside of a package Python finds by itself."""

    def __init__(self) -> None:
        self.code = NONE

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = dict(self.code.places).get(fullname) if path is None else None
        if place is None:
            return None
        return PathFinder.find_spec(fullname, [str(self.code.folder / place)], target)


_finder = _Finder()


def installed() -> UserCode:
    """The user's code of this process."""
    return _finder.code


def install(code: UserCode) -> None:
    """Let this process import `code`, in place of that of another workflow."""
    if code != _finder.code:
        theirs = dict(_finder.code.places)
        for name in [name for name in sys.modules if name.partition(".")[0] in theirs]:
            del sys.modules[name]
    _finder.code = code
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)


def code_from_environment() -> UserCode | None:
    """The user's code of a submitted job, or of the run that has started this process; None
    elsewhere.
    """
    if (text := os.environ.get(VARIABLE)) is None:
        return None
    value = json.loads(text)
    return UserCode(ROOT / value["folder"], tuple((name, place) for name, place in value["places"]))


def install_in_worker() -> None:
    """Ray's setup hook of each worker of a run whose workflow names modules of the user's."""
    install(code_from_environment() or NONE)


def find_user_code(workflow: Path, modules: Mapping[str, str]) -> UserCode:
    """What `modules` (name -> where the workflow names it) and the modules they import take from
    the folder of the workflow.

    Of a link to a workflow that is the folder of the link where one of the modules is there, else
    that of the file. In a submitted job, what was sent with it. UserError where one has the name of
    an installed package, which `import` would give.
    """
    if (code := code_from_environment()) is not None:
        for name, place in code.places:
            if other := _elsewhere(name, code.folder / place):
                both = f"was sent with this job, but is also {other} on {os.uname().nodename}"
                raise UserError(f"{name!r} {both}; rename yours")
        return code
    folder, other_end = workflow.parent.resolve(), workflow.resolve().parent
    if not any(module_file(folder, module) for module in modules):
        folder = other_end
    places: dict[str, str] = {}
    for module, where in modules.items():
        top = module.partition(".")[0]
        file = module_file(folder, module)
        if file is None:
            continue  # of an installed package, or not there at all
        if other := _elsewhere(top, folder):
            both = f"{module!r} is {file}, but {top!r} is also {other}"
            raise UserError(f"{where}: {both}; rename yours in {folder}")
        if top not in PROJECT:
            places[top] = ""
    while True:
        code = UserCode(folder, tuple(sorted(places.items())))
        found = _helpers(code, [module for module in modules if module.partition(".")[0] in places])
        if not found.keys() - places.keys():
            return code
        places |= found


def _helpers(code: UserCode, modules: Iterable[str]) -> dict[str, str]:
    """The helpers that the user's modules import by a top-level name that is not known yet: name
    -> folder.
    """
    places = dict(code.places)
    found: dict[str, str] = {}
    for module, file in sorted(closure(modules, code.file).items()):
        for name in {imported.partition(".")[0] for imported in imported_by(file, module)}:
            own = file.parent.relative_to(code.folder).as_posix().removeprefix(".")
            place = _place(code.folder, own, name, file)
            if place is None:
                continue
            first = {**found, **places}.setdefault(name, place)
            if first != place:
                both = " or ".join(str(code.folder / one / name) for one in (first, place))
                advice = f"import it with its folder's name, {place}.{name}"
                raise UserError(f"{file}: `import {name}` could mean {both}; {advice}")
            found[name] = place
    return found


def _place(folder: Path, own: str, name: str, importer: Path) -> str | None:
    """The folder of the helper `name`, that of the workflow or that of its importer; None: no
    helper has that name.
    """
    if name in PROJECT or name in sys.stdlib_module_names:
        return None
    for place in dict.fromkeys(("", own)):
        helper = _source(folder / place, name)
        if helper is None:
            continue
        other = _elsewhere(name, folder / place)
        if other is None:
            return place
        # A folder beside the workflow is data until a name says otherwise.
        if place or helper == folder / f"{name}.py":
            both = f"{helper} or {other}"
            raise UserError(f"{importer}: `import {name}` could mean {both}; rename yours")
    return None


def _source(folder: Path, name: str) -> Path | None:
    """A file or folder with Python code that `import name` would find in `folder`."""
    file, package = module_file(folder, name), folder / name
    return file or (package if package.is_dir() and any(package.rglob("*.py")) else None)


def _elsewhere(top: str, folder: Path) -> str | None:
    """Where Python finds the top-level module without us, if that is not in `folder`."""
    finders = (one for one in sys.meta_path if one is not _finder and hasattr(one, "find_spec"))
    spec = next((spec for one in finders if (spec := one.find_spec(top, None))), None)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or []) or [spec.origin or "built in"]
    return None if any(Path(place).resolve().parent == folder for place in places) else places[0]
