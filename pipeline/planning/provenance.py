"""Who and what made an artifact: code, versions, machine. Written into every record."""

from __future__ import annotations

import functools
import getpass
import hashlib
import importlib.util
import os
import platform
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt1.model.config import variant_module
from pipeline.workflow.imports import closure, is_dotted, module_file
from pipeline.workflow.stages import module_of
from pipeline.workflow.user_code import PROJECT, ROOT, UserCode, installed

PACKAGES = ("deepspeed", "ftfy", "gpt1", "mlflow", "numpy", "pyarrow", "ray", "spacy", "torch")


def code_hash(stage: str, task: object = None, model: object = None) -> str:
    """One hash over the code of a stage: its module, those of a `task` and a `model` of the user's,
    and what these import.

    Imports are followed, in functions too, through this project, the user's modules and the package
    that the stage is of.
    """
    modules = [module_of(stage), *([str(task)] if is_dotted(task) else [])]
    variant = variant_module(model)
    return _hash((*modules, *([variant] if variant else [])), installed())


@functools.cache
def _hash(modules: tuple[str, ...], code: UserCode) -> str:
    tops = {module.partition(".")[0] for module in modules}
    folders = {top: folder for top in PROJECT | tops if (folder := _folder(top))}

    def find(module: str) -> Path | None:
        folder = folders.get(module.partition(".")[0])
        return code.file(module) or (module_file(folder, module) if folder else None)

    hashed = hashlib.sha256()
    for name, file in sorted(closure(modules, find).items()):
        hashed.update(f"{name}\0".encode() + file.read_bytes())
    return hashed.hexdigest()[:24]


def _folder(top: str) -> Path | None:
    """The folder that an installed top-level package is in."""
    spec = importlib.util.find_spec(top)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]).parent if places else None


@functools.cache
def git_commit() -> str | None:
    """The commit of the code, with `+changes` where the tree differs from it; None outside a
    repository.
    """
    try:
        how: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 20}
        run = functools.partial(subprocess.run, cwd=ROOT, **how)
        commit = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        changes = run(["git", "status", "--porcelain", "-uno"]).stdout.strip()
        return f"{commit}+changes" if changes else str(commit)
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def package_versions() -> dict[str, str]:
    """The versions of the packages that decide results."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def user_name() -> str:
    """Who runs this; the number of an account without a name, as containers have."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def provenance(stage: str, task: object = None, model: object = None) -> dict[str, Any]:
    """The fields of a record that say where it comes from.

    `task`, `model`: the settings of these names, of a stage that has them.
    """
    return {
        "code": code_hash(stage, task, model),
        "git_commit": git_commit(), "packages": package_versions(),
        "host": socket.gethostname(), "user": user_name(), "machine": platform.machine(),
    }  # fmt: skip
