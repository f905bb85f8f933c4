"""Options that several commands take, their values when not given, completion by the shell."""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from gpt1.errors import UserError
from pipeline.planning.last_run import RunArtifacts, describe_options, last_run, places
from pipeline.planning.planner import Selection, make_plan
from pipeline.store.base import Store
from pipeline.workflow.expand import Workflow
from pipeline.workflow.load import read
from pipeline.workflow.schema import seconds

WORKFLOW = Path("workflow.yaml")


def flag(name: str, help: str) -> Any:
    """An option without a value; the help page would show one, `<bool>`."""
    return typer.Option(name, help=help, metavar="")


def profiles(context: typer.Context, incomplete: str) -> list[str]:
    """The profiles of the workflow that begin so."""
    return [name for name in _raw(context).get("profiles") or {} if name.startswith(incomplete)]


def stages(context: typer.Context, incomplete: str) -> list[str]:
    """The stages of the workflow that begin so."""
    return [name for name in _raw(context).get("stages") or {} if name.startswith(incomplete)]


def _raw(context: typer.Context) -> dict[str, Any]:
    """The workflow as it is written; nothing where it cannot be read, because completion has
    nobody to tell.
    """
    from pipeline.workflow.yaml_source import load

    try:
        return dict(load(context.params.get("file") or WORKFLOW).data)
    except (UserError, OSError, TypeError, ValueError):
        return {}


def read_workflow(
    file: Path | None, profile: str | None, assignments: Sequence[str] | None, store: str
) -> Workflow:
    """The workflow of a command that only looks: by its options; without any, the last run's."""
    if file is not None or profile is not None or assignments:
        return read(file or WORKFLOW, profile, assignments or ())
    try:
        last = last_run(Store.existing(store))
    except UserError:  # no store, or none that answers: for the command to say, where it needs one
        last = None
    if last is None:
        return read(WORKFLOW)
    if last.file is None or last.assignments is None:
        why = "had a secret in --set, which is not recorded"
        if last.file is None:
            why = f"used {last.resolved}, which is gone"
        advice = f"using {WORKFLOW}; to choose, give --file, --profile, and --set"
        print(f"gpt1: the store's last run {why}; {advice}", file=sys.stderr)
        return read(WORKFLOW)
    print(f"gpt1: using {last} (the store's last run)", file=sys.stderr)
    return read(last.file, last.profile, last.assignments)


def read_artifacts(
    file: Path | None, profile: str | None, assignments: Sequence[str] | None, store: str
) -> RunArtifacts:
    """What a command that only looks is to read: the artifacts of its options' plan; without
    any, those of the last run.
    """
    opened = Store.existing(store)
    if file is not None or profile is not None or assignments:
        workflow = read(file or WORKFLOW, profile, assignments or ())
        name = describe_options(workflow.file, profile, workflow.assignments)
        return RunArtifacts(opened, places(make_plan(workflow, opened)), name)
    last = last_run(opened)
    if last is None:
        raise UserError(
            f"{opened.where}: no run is recorded in this store; start one with `gpt1 run`, or give"
            " --profile or --set"
        )
    print(f"gpt1: using {last} (the store's last run)", file=sys.stderr)
    return RunArtifacts(opened, last.cells, f"{last} (the store's last run)")


def run_command(workflow: Workflow, store: Store, stage: str) -> str:
    """The command that makes a stage of a workflow, as it is typed."""
    words = ["gpt1", "run", stage]
    words += [] if workflow.file == WORKFLOW else ["--file", str(workflow.file)]
    words += ["--profile", workflow.profile] if workflow.profile else []
    words += [word for assignment in workflow.assignments for word in ("--set", assignment)]
    return shlex.join([*words, *store_words(store)])


def store_words(store: Store) -> list[str]:
    """The option that names a store, where it is not the usual one."""
    return [] if store.root == Path("store").resolve() else ["--store", store.where]


WORKFLOW_HELP = "Workflow file. Default, without --profile and --set: the last run's options."
StoreOption = Annotated[
    str,
    typer.Option(
        "--store", "-s", help="Where results are kept: a folder or s3://BUCKET/FOLDER.",
        envvar="GPT1_STORE",
    ),
]
File = Annotated[Path, typer.Option("--file", "-f", help="Workflow file.")]
FileToRead = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", help=WORKFLOW_HELP,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help="Workflow profile, such as demo.", autocompletion=profiles
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: stage.key=value. Repeatable."),
]
Stages = Annotated[
    list[str] | None,
    typer.Argument(
        help="Stages or jobs to run, with what they need; default: all.",
        autocompletion=stages,
    ),
]
Start = Annotated[
    str | None,
    typer.Option("--from", help="Run this stage and everything downstream.", autocompletion=stages),
]
Only = Annotated[bool, flag("--only", "Run only the named stages, not what they need.")]
Force = Annotated[
    bool, flag("--force", "Rerun the named stages (or all), even if they are done.")
]
Json = Annotated[bool, flag("--json", "Print JSON.")]


@dataclass(frozen=True)
class RunOptions:
    """What `gpt1 run` takes, and `gpt1 submit` for the `gpt1 run` of its job."""

    stages: Stages = None
    file: File = WORKFLOW
    profile: Profile = None
    assignments: Assignments = None
    store: StoreOption = "store"
    start: Start = None
    only: Only = False
    force: Force = False
    dry_run: Annotated[bool, flag("--dry-run", "Print what would run, and why; run nothing.")] = (
        False
    )
    code: Annotated[
        str,
        typer.Option("--code", help="If a stage's code has changed since it ran: warn or rerun."),
    ] = "warn"

    repair_limit: Annotated[
        str,
        typer.Option(
            "--repair-limit",
            help="Make damaged artifacts again if that takes at most this long.",
        ),
    ] = "1h"

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
        return read(self.file, self.profile, self.assignments or ())

    def selection(self) -> Selection:
        """The cells of these options."""
        return Selection(
            tuple(self.stages or ()), self.start, self.only, self.force, self.code == "rerun"
        )

    def words(self, file: str, store: str) -> list[str]:
        """The words that give `gpt1 run` these options, with another file and store."""
        given = {**vars(self), "file": file, "store": store}
        words: list[str] = []
        for name, annotation in get_type_hints(RunOptions, include_extras=True).items():
            [option], value = annotation.__metadata__, given[name]
            for one in (
                (value if isinstance(value, list) else [value])
                if value != getattr(RunOptions, name)
                else ()
            ):
                words += (
                    [str(option.default)] if isinstance(option, OptionInfo) else []
                )  # Typer's place for the first name
                words += [] if one is True else [str(one)]
        return words


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose first parameter is a RunOptions, as Typer reads commands: with a
    parameter for each option.
    """
    hints = get_type_hints(RunOptions, include_extras=True)
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=getattr(RunOptions, name), annotation=hint
        )
        for name, hint in hints.items()
    ]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        command(RunOptions(**{name: values.pop(name) for name in hints}), **values)

    parameters = [
        *shared,
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
    ]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_options
