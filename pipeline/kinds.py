"""The stages there are, imported late and by name."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import cast

from stages.contract import Stage


def stage_kinds() -> list[str]:
    """The stages of this project: the files of stages/. A name with dots is a module of somebody else's."""
    folder = Path(__file__).resolve().parents[1] / "stages"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "contract" and not path.stem.startswith("_"))


def is_stage(kind: str) -> bool:
    """Whether `uses: kind` names a stage."""
    if "." not in kind:
        return kind in stage_kinds()
    try:
        return importlib.util.find_spec(kind) is not None
    except (ImportError, ValueError):
        return False


def module_of(kind: str) -> str:
    """The module that defines a stage as `STAGE`."""
    return kind if "." in kind else f"stages.{kind}"


def kinds_of(kind: str) -> tuple[str, ...]:
    """The kinds an artifact of that kind counts as: its own, and those whose place it can take."""
    return (kind, *load_stage(kind).provides)


def load_stage(kind: str) -> Stage:
    """The stage called `kind`."""
    return cast(Stage, importlib.import_module(module_of(kind)).STAGE)
