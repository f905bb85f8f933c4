"""Options that several commands take, their values when not given, completion by the shell."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from gpt1.errors import UserError
from gpt1.terminal import show
from pipeline.planning.last_run import (
    RunArtifacts,
    describe_options,
    last_artifacts,
    last_run,
    places,
)
from pipeline.planning.planner import Plan, Selection, make_plan
from pipeline.store.base import Store
from pipeline.workflow.expand import Workflow
from pipeline.workflow.load import read
from pipeline.workflow.schema import seconds

WORKFLOW = Path("workflow.yaml")
KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
ENTRY = re.compile(r"^    (\w+)(?: \(([^)]+)\))?: (.+(?:\n {8}.+)*)", re.MULTILINE)
"""One parameter in a docstring: its name, what it is called, and its help."""


def flag(name: str, help: str) -> Any:
    """An option without a value; the help page would show one, `<bool>`."""
    return typer.Option(name, help=help, metavar="")


def names_under(key: str) -> Callable[[typer.Context, str], list[str]]:
    """Completion by the names under this key of the workflow; by none where it cannot be read,
    because a shell that completes shows no errors.
    """

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        from pipeline.workflow.yaml_source import load

        try:
            names = dict(load(context.params.get("file") or WORKFLOW).data).get(key) or {}
        except (UserError, OSError, TypeError, ValueError):
            return []
        return [name for name in names if name.startswith(incomplete)]

    return complete


WORKFLOW_HELP = "Workflow file. Default, without --profile and --set: the last run's options."
STORE_HELP = "Where results are kept: a folder or s3://BUCKET/FOLDER."
StoreOption = Annotated[str, typer.Option("--store", "-s", help=STORE_HELP, envvar="GPT1_STORE")]
File = Annotated[Path, typer.Option("--file", "-f", help="Workflow file.")]
FileToRead = Annotated[Path | None, typer.Option("--file", "-f", help=WORKFLOW_HELP)]
PROFILES, STAGES = names_under("profiles"), names_under("stages")
PROFILE_HELP = "Workflow profile, such as demo."
Profile = Annotated[
    str | None, typer.Option("--profile", "-p", help=PROFILE_HELP, autocompletion=PROFILES)
]
SET_HELP = "Override a setting or the tasks: stage.key=value, tasks=[cola,rte]. Repeatable."
Assignments = Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)]
STAGES_HELP = "Stages or jobs to run, with what they need; default: all."
Stages = Annotated[list[str] | None, typer.Argument(help=STAGES_HELP, autocompletion=STAGES)]
START_HELP = "Run this stage and everything downstream."
Start = Annotated[str | None, typer.Option("--from", help=START_HELP, autocompletion=STAGES)]
CODE_HELP = "If a stage's code has changed since it ran: warn or rerun."
REPAIR_HELP = "Make damaged artifacts again if that takes at most this long."
Json = Annotated[bool, flag("--json", "Print JSON.")]


@dataclass(frozen=True)
class ReadOptions:
    """What a command that only reads takes.

    Without any of the first three it uses those of the store's last run, and says so.
    """

    file: FileToRead = None
    profile: Profile = None
    assignments: Assignments = None
    store: StoreOption = "store"

    @property
    def chooses(self) -> bool:
        """Whether they say which workflow, themselves."""
        return self.file is not None or self.profile is not None or bool(self.assignments)

    def workflow(self, *asked: str) -> Workflow:
        """The workflow of these options, for a command about these stages and jobs."""
        if self.chooses:
            return self._read(*asked)
        try:
            last = last_run(Store.existing(self.store))
        except UserError:  # no store, or none that answers: a command that needs one says so
            last = None
        if last is None:
            return read(WORKFLOW, asked=asked)
        if last.problem:
            advice = f"using {WORKFLOW}; to choose, give --file, --profile, and --set"
            show(f"gpt1: the store's last run {last.problem}; {advice}", error=True)
            return read(WORKFLOW, asked=asked)
        show(f"gpt1: using {last} (the store's last run)", error=True)
        return read(last.file or WORKFLOW, last.profile, last.assignments or (), asked)

    def _read(self, *asked: str) -> Workflow:
        return read(self.file or WORKFLOW, self.profile, self.assignments or (), asked)

    def plan(self, *stages: str) -> Plan:
        """The plan of their workflow, or of these stages of it, for their store, which need not
        be there yet.
        """
        return make_plan(self.workflow(*stages), Store.at(self.store), Selection(stages))

    def artifacts(self) -> RunArtifacts:
        """The artifacts of the last run or, where these options choose a workflow, of its plan."""
        store = Store.existing(self.store)
        if self.chooses:
            workflow = self._read()
            name = describe_options(workflow.file, self.profile, workflow.assignments)
            cells = places(make_plan(workflow, store))
            return RunArtifacts(store, cells, name, workflow.file)
        found = last_artifacts(store)
        show(f"gpt1: using {found.name}", error=True)
        return found


@dataclass(frozen=True)
class RunOptions:
    """What `gpt1 run` takes, and `gpt1 submit` for the `gpt1 run` of its job."""

    stages: Stages = None
    file: File = WORKFLOW
    profile: Profile = None
    assignments: Assignments = None
    store: StoreOption = "store"
    start: Start = None
    only: Annotated[bool, flag("--only", "Run only the named stages, not what they need.")] = False
    force: Annotated[
        bool, flag("--force", "Rerun the named stages (or all), even if they are done.")
    ] = False
    dry_run: Annotated[
        bool, flag("--dry-run", "Print what would run, and why; run nothing.")
    ] = False
    code: Annotated[str, typer.Option("--code", help=CODE_HELP)] = "warn"
    repair_limit: Annotated[str, typer.Option("--repair-limit", help=REPAIR_HELP)] = "1h"

    def __post_init__(self) -> None:
        if self.code not in ("warn", "rerun"):
            raise UserError(f"--code {self.code}: expected warn or rerun")

    @property
    def repair_seconds(self) -> float:
        """The limit. UserError when it is no duration."""
        try:
            return float(seconds(self.repair_limit))
        except ValueError as error:
            raise UserError(f"--repair-limit {self.repair_limit}: {error}") from None

    def read(self) -> Workflow:
        """The workflow of these options."""
        return read(self.file, self.profile, self.assignments or (), self.stages or (), self.start)

    def selection(self) -> Selection:
        """The cells of these options."""
        stages, rerun = tuple(self.stages or ()), self.code == "rerun"
        return Selection(stages, self.start, self.only, self.force, rerun)

    def to_args(self) -> list[str]:
        """The arguments that give `gpt1 run` these options."""
        args: list[str] = []
        for name, annotation in get_type_hints(RunOptions, include_extras=True).items():
            [option], value = annotation.__metadata__, getattr(self, name)
            if value == getattr(RunOptions, name):
                continue
            for one in value if isinstance(value, list) else [value]:
                if isinstance(option, OptionInfo):
                    args.append(str(option.default))  # Typer's place for the first name
                args += [] if one is True else [str(one)]
        return args


def run_command(workflow: Workflow, store: Store, stage: str) -> str:
    """The command that makes a stage of a workflow, as it is typed."""
    options = RunOptions([stage], workflow.file, workflow.profile, list(workflow.assignments))
    return shlex.join(["gpt1", "run", *options.to_args(), *store_words(store)])


def store_words(store: Store) -> list[str]:
    """The option that names a store, where it is not the usual one."""
    return [] if store.root == Path("store").resolve() else ["--store", store.where]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as Typer reads commands: what is before its `/` is an argument, the rest are
    options. A parameter that is a dataclass of options becomes a parameter for each of its fields;
    others have their help, and what they are called, from the docstring:

        Args:
            prompt (-p): Text to continue. Repeatable.
            folder (FOLDER): An argument, as the help shows it.
    """
    about, _, described = (inspect.getdoc(command) or "").partition("\n\nArgs:\n")
    entries = {found[1]: (found[2] or "", found[3]) for found in ENTRY.finditer(described)}
    parameters: list[inspect.Parameter] = []
    places: list[str] = []
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind, is_argument = parameter.annotation, parameter.kind is parameter.POSITIONAL_ONLY
        places += [name] if is_argument else []
        if is_dataclass(kind):
            groups[name] = kind
            parameters += [
                inspect.Parameter(one, KEYWORD_ONLY, default=getattr(kind, one), annotation=hint)
                for one, hint in get_type_hints(kind, include_extras=True).items()
            ]
            continue
        if name in entries:
            kind = Annotated[kind, _described(name, kind, is_argument, *entries[name])]
        parameters.append(parameter.replace(kind=KEYWORD_ONLY, annotation=kind))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        given = [values.pop(name) for name in places]
        command(*given, **values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = about
    return run


def _described(name: str, kind: Any, is_argument: bool, called: str, help: str) -> Any:
    """What Typer is given of a parameter that a docstring describes."""
    help = " ".join(help.split())
    if is_argument:
        return typer.Argument(help=help, metavar=called or None)
    names = [f"--{name.replace('_', '-')}"] if "--" not in called else []
    names += called.split(", ") if called else []
    return flag(names[0], help) if kind is bool else typer.Option(*names, help=help)
