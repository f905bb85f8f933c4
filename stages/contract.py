"""The stage contract: what a stage declares, and what it receives when it runs.

A stage is one file in `stages/` with one subclass of `Stage`. Importing that file must be cheap (no
torch, Ray, spaCy or MLflow at module level), because `plan` and `status` import every stage of the
workflow to validate its settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gpt1.errors import UserError
from gpt1.settings import Settings as Settings  # re-exported: a part of the contract
from gpt1.settings import runtime_field as runtime_field
from gpt1.train.checkpoint import CheckpointStorage

if TYPE_CHECKING:
    from gpt1.tasks.finetune import FinetuneJob
    from gpt1.tokenizer.vocabulary import Vocabulary
    from gpt1.train.cost_model import Device, Forecast

PROVENANCE = (
    "run", "code", "git_commit", "packages", "started", "finished", "seconds", "resources",
    "parts", "identity", "inputs",
)
"""The fields of a record that a stage may tell people of its inputs: no path, no host."""

MODELS = "models"
"""Key of a stage's summary: output folders that hold a whole model -> its name in the model
registry ("" for none).
"""


class Resources(BaseModel):
    """What a stage may use: `workers` processes of `cpus` cores and `gpus` devices each. A gang may
    start, and continue, with any number from `min_workers` to `workers` while there is no room for
    all. None: it needs all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    workers: int | None = Field(default=None, ge=1)
    """Number of processes; default: as many as fit."""
    cpus: float = Field(default=1, gt=0)
    """CPU cores per process."""
    gpus: float = Field(default=0, ge=0)
    """GPUs per process; a fraction lets small jobs share one."""
    min_workers: int | None = Field(default=None, ge=1)
    """Smallest number of ranks to start or continue training with while nodes are missing."""

    @model_validator(mode="after")
    def _some_of_all(self) -> Resources:
        if self.min_workers is not None and self.min_workers > (self.workers or 1):
            found = f"min_workers {self.min_workers} is more than workers {self.workers or 1}"
            raise ValueError(f"{found}; lower it, or raise workers")
        return self


@dataclass(frozen=True)
class ExternalFile:
    """A file from outside the store.

    `name` is its identity (relative, the same on every machine), `path` its place on this machine.

    `digest` identifies its content. If a stage's `external_files` gives none, the plan computes the
    sha256 of the bytes, so the stage always gets one. A remote file has what its server reports
    (an ETag, a revision), because planning downloads nothing. `url` is the address of a remote
    file; its `path` is then only a name.
    """

    name: str
    path: Path
    digest: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class StoredFile:
    """A file of a published artifact, wherever it is: `Context.fetch` gives its path on this host.

    `key` is its place in the store. Volatile files (timings, logs) are kept but are no part of the
    content digest.
    """

    name: str
    key: str
    size: int
    sha256: str
    volatile: bool = False


@dataclass(frozen=True)
class StoredFolder:
    """A folder of an attempt, wherever it is: `StoreAccess.localize` gives its path on a host."""

    key: str


@dataclass(frozen=True)
class Artifact:
    """The published result of a stage, a matrix cell or a part."""

    stage: str
    cell: str
    fingerprint: str
    digest: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    files: Mapping[str, StoredFile] = field(repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Where it comes from: the record's PROVENANCE. For people to read; it must decide nothing."""

    def file(self, name: str) -> StoredFile:
        """The file called `name`. UserError when there is none, which names what there is."""
        if name not in self.files:
            known = ", ".join(sorted(self.files)[:8]) or "none"
            more = f" and {len(self.files) - 8} more" if len(self.files) > 8 else ""
            raise UserError(f"{self.cell}: no file {name!r}; expected one of {known}{more}")
        return self.files[name]

    def under(self, prefix: str) -> list[StoredFile]:
        """The files whose names start with `prefix`, in the order of their names."""
        return [self.files[name] for name in sorted(self.files) if name.startswith(prefix)]


class Output(Protocol):
    """Where a part, or a stage, writes.

    A file becomes an output when the `with` block ends without an exception.
    """

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A binary file to write; it is hashed when the block ends."""


PartFunction = Callable[[Mapping[str, Any], Output], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Part:
    """One unit of a part-wise stage.

    `identity` is everything the output depends on beside the stage's name and version and the
    function's name: digests of inputs, settings, seeds. `arguments` go to the function, with each
    StoredFile in them as its path on the host that makes the part; they are no part of the
    identity.
    """

    name: str
    identity: Mapping[str, Any]
    arguments: Mapping[str, Any]


def parts_of_books(
    books: Artifact, identity: Callable[[str], Mapping[str, Any]], **arguments: Any
) -> list[Part]:
    """A part for each file of books of an artifact.

    Its function gets `name` (`part-0007`), `books` (the file's sha256), what `identity` says of the
    name, `path` (the file) and `arguments`. All but the last two decide whether it is made again.
    """
    parts = []
    for file in books.under("books/"):
        name = PurePosixPath(file.name).stem
        about = {"name": name, "books": file.sha256, **identity(name)}
        parts.append(Part(name, about, {**about, "path": file, **arguments}))
    return parts


class Reporter(Protocol):
    """How running code speaks. Picklable: it can be handed to another process of the cluster."""

    def info(self, text: str) -> None:
        """One line for the person watching."""

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """How far the stage is."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of one or more curves. What an earlier attempt has logged at a step is not drawn
        again.
        """

    def flush(self) -> None:
        """Write all points: for a process other than the stage's own, at its end."""

    def should_stop(self) -> bool:
        """Whether the run is being ended.

        While a gang (`Stage.gang_scheduled`) runs, what has asked is given time to save what it
        has, and should then raise StoppedError; all else is cancelled. Only the first call waits,
        for one answer of the driver.
        """


class StoreAccess(Protocol):
    """The store, for processes of a stage on any host. Picklable."""

    @property
    def shared(self) -> bool:
        """Whether all hosts see the same folders."""

    @property
    def storage(self) -> CheckpointStorage:
        """For files of attempts, by their folder's path on this host."""

    def folder(self, path: Path) -> StoredFolder:
        """A folder of an attempt, by its path on this host."""

    def localize(self, value: Any) -> Any:
        """`value` (lists, tuples, mappings, and what they hold) with every StoredFile and
        StoredFolder in it as a path of this host.

        Files are fetched and checked as by `Context.fetch`; folders are made.
        """

    def pin(self, folder: Path) -> str:
        """Return an ID for this host's copy of `folder`, and protect it from cache eviction until
        this process exits.
        """


class Context(Reporter, Output, Protocol):
    """What `Stage.run` is given."""

    cell: str
    run: str
    """The name of this run of the workflow; for people to read, like `Artifact.provenance`."""
    attempt: Path
    """This attempt's private folder.

    Files left in it that were not declared as outputs are not part of the artifact.
    """
    resources: Resources
    external_files: Sequence[ExternalFile]
    reporter: Reporter
    store: StoreAccess
    """For a stage whose processes on other hosts use files of the store."""

    def input(self, kind: str) -> Artifact:
        """The one artifact of that kind of stage; RuntimeError when there is none or more than
        one.
        """

    def inputs(self, kind: str | None = None) -> list[Artifact]:
        """All artifacts of that kind of stage (None: of every kind), ordered by cell."""

    def fetch(self, file: StoredFile) -> Path:
        """The path of a file on this host. Its sha256 is checked, once a run and host.

        Raises DamagedArtifact, which no stage should catch: the run makes the artifact again.
        """

    def fetch_folder(self, artifact: Artifact, name: str) -> Path:
        """The folder on this host that holds the file called `name` of an artifact and all others
        that were written beside it.
        """

    def output(self, name: str, volatile: bool = False) -> Path:
        """A path for code that writes by itself; the file is hashed when the stage ends."""

    def map_parts(self, function: PartFunction, parts: Sequence[Part]) -> list[Artifact]:
        """Run `function` once a part on the cluster, a bounded number at a time; published parts
        are taken as they are.

        `function` is a module-level function. Returns the parts' artifacts in the order of `parts`;
        each artifact's `summary` is what the function returned. The first exception ends the call
        after the running parts have ended; finished parts stay.
        """

    def add_files_of(self, part: Artifact) -> None:
        """Make a part's files outputs of this stage, by reference (names must be unique in the
        stage).
        """

    def summary(self, values: Mapping[str, Any]) -> None:
        """The handful of figures one wants to see of this stage: kept in the record, shown in
        MLflow. Must be deterministic.
        """

    def previous_attempts(self, name: str) -> list[Path]:
        """Files or folders called `name` that earlier attempts at this very fingerprint left
        behind, oldest first.
        """

    def previous(self) -> Artifact | None:
        """The newest artifact of this job with another fingerprint; None where there is none.

        For figures to compare with, so only volatile outputs may depend on it.
        """
        ...


class Stage(ABC):
    """One stage of the workflow."""

    version: ClassVar[int] = 1
    """Raised by hand when the meaning of the output changes; enters the fingerprint."""
    settings_model: ClassVar[type[Settings]] = Settings
    requires: ClassVar[tuple[str, ...]] = ()
    """Kinds of stages (`uses:` names) that must be among its `needs:`."""
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    """Kinds it can also take; `("*",)` for any."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Kinds whose place it can take: its artifact has the files of those kinds under the same
    names.
    """
    gang_scheduled: ClassVar[bool] = False
    """True: needs all its `workers` at the same time (the ranks of a training), so the cluster
    must hold them together.
    """
    is_coordinator: ClassVar[bool] = False
    """True: `run` places its own work on the cluster (parts, ranks), without a CPU itself. False:
    `run` is a job of `resources`.
    """

    @classmethod
    def wants_input(cls, settings: Any, kind: str, upstream: Any) -> bool:  # noqa: ARG003
        """Whether a cell with `settings` uses the upstream cell of that kind with settings
        `upstream`.
        """
        return True

    @classmethod
    def supports_task(cls, task: str) -> bool:  # noqa: ARG003
        """Whether it has a job for this task where its matrix says `task: ${tasks}`."""
        return True

    @classmethod
    def complete(cls, cells: Sequence[Any]) -> Sequence[Any]:
        """The settings of all cells of one stage, in the order of its matrix, with what depends
        on the other cells filled in.
        """
        return cells

    @classmethod
    def external_files(cls, settings: Any) -> list[ExternalFile]:  # noqa: ARG003
        """Files from outside the store that the stage reads.

        Raises UserError when they are missing.
        """
        return []

    @classmethod  # noqa: B027 (most need none)
    def check(cls, settings: Any, upstream: Mapping[str, Sequence[Any]]) -> None:
        """Raise UserError when `settings` do not fit those of the upstream cells (by kind).

        Called before anything starts.
        """

    @classmethod  # noqa: B027 (most need none)
    def check_resources(cls, settings: Any, resources: Resources) -> None:
        """Raise UserError when `settings` cannot be computed with `resources`.

        Called before anything starts.
        """

    @classmethod
    def share_left(cls, settings: Any, files: Sequence[str]) -> float:  # noqa: ARG003
        """Of the work of a job whose attempts have these files (ATTEMPT/NAME), the share that
        making it again takes, with what earlier attempts left.
        """
        return 1.0

    @abstractmethod
    def run(self, settings: Any, context: Context) -> None:
        """Make the outputs. May be called again after a failure, in a new attempt."""


@runtime_checkable
class SizedVocabulary(Protocol):
    """A stage whose vocabulary has a known size before it is made (`gpt1 describe`)."""

    def expected_size(self, settings: Any) -> int:
        """The most tokens that the settings can give."""


@runtime_checkable
class Forecastable(Protocol):
    """A pre-training that can say what it will need (`gpt1 describe`)."""

    def forecast(
        self, settings: Any, resources: Resources, vocabulary: int, corpus_tokens: int | None,
        device: Device | None,
    ) -> Forecast:
        """For a `vocabulary` of this many tokens; None: not known, not chosen."""


@runtime_checkable
class PackableTraining(Protocol):
    """A pre-training that runs without Ray, too (`gpt1 pack`)."""

    def run_config(
        self, settings: Any, vocabulary: Path, train: Sequence[str], held_out: Sequence[str]
    ) -> str:
        """run.json for torchrun: `train` and `held_out` are the names of the shards beside it,
        `vocabulary` is the folder there that the output is written to.
        """


@runtime_checkable
class PackableFinetuning(Protocol):
    """A fine-tuning that runs without Ray, too (`gpt1 pack`)."""

    def job(
        self, settings: Any, cell: str, vocabulary: int, load: Callable[[], Vocabulary]
    ) -> FinetuneJob:
        """The job of a cell, for a `vocabulary` of that many tokens, which label words `load`."""
