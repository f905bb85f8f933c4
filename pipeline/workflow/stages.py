"""The stages there are, imported late and by name."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

from gpt1.errors import UserError
from pipeline.workflow.imports import is_dotted
from pipeline.workflow.yaml_source import nearest
from stages.contract import Stage


@functools.cache
def stage_kinds() -> tuple[str, ...]:
    """The stages of this project: the files of stages/.

    A name with dots is a module of somebody else's.
    """
    folder = Path(__file__).resolve().parents[2] / "stages"
    return tuple(sorted(path.stem for path in folder.glob("[!_]*.py") if path.stem != "contract"))


def module_of(kind: str) -> str:
    """The module that defines a stage as `STAGE`."""
    return kind if "." in kind else f"stages.{kind}"


def kinds_of(kind: str) -> tuple[str, ...]:
    """The kinds an artifact of that kind counts as: its own, and those whose place it can take."""
    return (kind, *load_stage(kind).provides)


def load_stage(kind: str) -> Stage:
    """The stage called `kind`.

    UserError when there is none, or a module of the user's cannot be imported.
    """
    if not is_dotted(kind) and kind not in stage_kinds():
        own = "for a stage of your own, give its module: `uses: my.stage`"
        raise UserError(f"unknown stage {kind!r}; {nearest(kind, stage_kinds())}; {own}")
    module = module_of(kind)
    try:
        stage = getattr(importlib.import_module(module), "STAGE", None)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if "." not in kind:
            raise
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            path = f"{module.replace('.', '/')}.py"
            missing = f"no file {path} next to the workflow, and no installed module"
            raise UserError(f"unknown stage {kind!r}: {missing}") from None
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"stage {kind!r} cannot be imported ({why})") from error
    if not isinstance(stage, Stage):
        expected = "an instance of a subclass of stages.contract.Stage"
        raise UserError(f"stage {kind!r}: its STAGE is {stage!r}; expected {expected}")
    return stage
