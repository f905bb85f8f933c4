"""The MLflow server that shows a store: the one file that uses MLflow's private parts.

    STORE/mlflow.db           runs and models, where no other server is named; their files have
                              addresses such as mlflow-artifacts:/gpt1/<run>/artifacts, which name
                              no folder of a machine
    STORE/mlflow-artifacts/   those files: written here, handed out by `gpt1 ui`

So a store can be copied and moved. A server gets its files by MLflow's own calls, and puts them
where it likes. All of it can be deleted: it is filled again from the store.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from pipeline.store.atomic import to_json
from pipeline.store.base import Store

TRIED = ("3.17.2",)  # the versions of MLflow whose private parts are known to be as used here
EXPERIMENT = "gpt1"
TRAINING = "workflowType=machine_learning"  # in an address of MLflow's pages: those for training
NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a description
DATA_BASE, FILES = "mlflow.db", "mlflow-artifacts"
SERVED = "mlflow-artifacts:/"
"""How addresses of files begin that MLflow's server hands out from its own folder."""
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # errors reach us as exceptions and are said once
    # Models hold no names of this machine's variables, and writing them draws no bars.
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # We try again ourselves: a blind retry of "create run" could make two.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
REFUSALS = {
    "BAD_REQUEST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "MALFORMED_REQUEST", "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST",
}  # fmt: skip
"""MLflow's error codes that trying again cannot change; everything else it raises is taken for a
server in trouble. Look at `is_damage` first: MLflow calls a damaged data base a BAD_REQUEST.
"""


class MlflowServer:
    """The server at `uri`, connected when it is first needed; not for more than one thread.

    `info` gets a line when something of the server was set aside. Errors of MLflow, of SQLite and
    of files are raised as they come.
    """

    def __init__(self, store: Store, uri: str, info: Callable[[str], None]) -> None:
        self.uri = uri
        self._root = store.root
        self._say = info
        self._client: Any = None
        self._experiment = ""
        self._file = _data_base(uri)
        self._own = self._file == (store.root / DATA_BASE).resolve()  # the store's own data base
        self._connected_to: tuple[int, int] | None = None

    @property
    def client(self) -> Any:
        """An MlflowClient of a server that has the experiment.

        A new object after an SQLite file was deleted, replaced or set aside: then nothing holds
        that was known of the server before.

        UserError: another version of MLflow than those tried.
        """
        if self._client is None or (self._file and _identity(self._file) != self._connected_to):
            self._connect()
        return self._client

    @property
    def experiment_id(self) -> str:
        """Of the experiment EXPERIMENT, which is created where there is none."""
        return self._experiment if self.client else ""

    def log_run_files(self, run_id: str, path: Path, folder: str = "") -> None:
        """Add a file, or what a folder holds, to `folder` of a run's files."""
        client = self.client
        if self._own:
            self._copy(client.get_run(run_id).info.artifact_uri, path, folder)
        else:
            log = client.log_artifacts if path.is_dir() else client.log_artifact
            log(run_id, str(path), folder or None)

    def log_model_files(self, model_id: str, path: Path) -> None:
        """Add what a folder holds to the files of a LoggedModel."""
        client = self.client
        if self._own:
            self._copy(client.get_logged_model(model_id).artifact_location, path)
        else:
            client.log_model_artifacts(model_id, str(path))

    def write_json(self, run_id: str, name: str, content: Any) -> None:
        """Write a JSON file of a run; `name` may begin with folders."""
        folder, _, file_name = name.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, file_name)
            file.write_bytes(to_json(content))
            self.log_run_files(run_id, file, folder)

    def set_aside_damaged(self) -> bool:
        """After an error that `is_damage`: rename the store's own data base if it is damaged, so
        that the next use makes a new one. False: it is not, or belongs to another server.
        """
        if self._file is None or not self._own:
            return False
        with _locked(self._file):
            found = _damage(self._file, "integrity_check")  # of indexes, too
            if found:
                self._rename(self._file, found)
        self._client = None
        return bool(found)

    def _connect(self) -> None:
        if version("mlflow") not in TRIED:
            found = f"mlflow {version('mlflow')}: not a version that gpt1 was tried with"
            advice = f"Install that one: pip install mlflow=={TRIED[-1]}"
            raise UserError(f"{found}; expected {' or '.join(TRIED)}. {advice}")
        set_defaults()
        from mlflow import MlflowClient

        self._client, location = None, None
        if self._file:
            # Of another data base, beside it: MLflow itself would take the folder it is started in.
            top = SERVED if self._own else f"{(self._file.parent / FILES).as_uri()}/"
            location = f"{top}{EXPERIMENT}"
            with _locked(self._file):
                if self._own and (found := _damage(self._file, "quick_check")):
                    self._rename(self._file, found)
                _ensure_schema(self._file, top)
                self._connected_to = _identity(self._file)
            _forget(self.uri)
        client = MlflowClient(tracking_uri=self.uri)
        self._experiment = self._experiment_of(client, location)
        self._client = client

    def _experiment_of(self, client: Any, location: str | None) -> str:
        """The id of the experiment, which is created, restored or set aside as is needed."""
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        if found is not None and self._own and not found.artifact_location.startswith(SERVED):
            # Its files are at a fixed place, which may be another store's: no more goes there.
            other = f"{EXPERIMENT} {found.experiment_id}"
            client.rename_experiment(found.experiment_id, other)
            what = f"{EXPERIMENT} keeps its files in {found.artifact_location}, outside the store"
            done = f"renamed it to {other!r}, and runs go to a new experiment"
            self._say(f"MLflow experiment {what}; {done}")
            found = None
        if found is not None:
            return str(found.experiment_id)
        # MLflow's pages then open those for training.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(EXPERIMENT, location, kind))

    def _copy(self, address: str, path: Path, folder: str = "") -> None:
        """Copy files to where `gpt1 ui` looks for those of an address of the store's own."""
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        place = self._root.absolute() / FILES / address.removeprefix(SERVED).lstrip("/")
        there = LocalArtifactRepository(place.as_uri())
        (there.log_artifacts if path.is_dir() else there.log_artifact)(str(path), folder or None)

    def _rename(self, file: Path, found: str) -> None:
        """Set a damaged data base aside. Its journals go first: beside a new one they would be
        played back into that.
        """
        aside = f"{file.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        for suffix in (*_JOURNALS, ""):
            with_it = file.with_name(file.name + suffix)
            if with_it.exists():
                with_it.replace(file.with_name(aside + suffix))
        done = f"renamed it to {aside}, and a new one is filled from the store"
        self._say(f"{file}: the MLflow data base is damaged ({found}); {done}")


def set_defaults() -> None:
    """Set what MLflow reads from the environment while it is imported, where the user has not."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def default_uri(store: Path) -> str:
    """The SQLite data base of a store."""
    return _sqlite_uri(store.absolute() / DATA_BASE)


def is_damage(error: BaseException | None) -> bool:
    """Whether an error of MLflow says that its SQLite file is damaged: "malformed", or "not a
    database".
    """
    while error is not None:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return True
        error = error.__cause__
    return False


def _sqlite_uri(file: Path) -> str:
    """With the driver's name: MLflow takes the path of a plain `sqlite:///` as it is written, and
    makes folders called `%20`.
    """
    from sqlalchemy import URL

    return URL.create("sqlite+pysqlite", database=str(file)).render_as_string()


def _data_base(uri: str) -> Path | None:
    """The file of an SQLite URI."""
    from sqlalchemy import make_url

    file = make_url(uri).database if uri.startswith("sqlite") else None
    return Path(file).resolve() if file else None


_JOURNALS = ("-journal", "-wal", "-shm")  # what SQLite keeps beside a data base


def _damage(file: Path, pragma: str) -> str:
    """The first thing wrong with an SQLite file; empty: nothing, or there is none."""
    if not file.is_file():
        return ""
    try:
        with closing(sqlite3.connect(file)) as base:
            [found] = base.execute(f"PRAGMA {pragma}(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise  # locked, or not readable
        found = str(error)
    return "" if found == "ok" else str(found).splitlines()[0]


def _identity(file: Path) -> tuple[int, int] | None:
    """Tells a file from another of the same name."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _forget(uri: str) -> None:
    """Close MLflow's connections to a data base: it keeps them by name for as long as the process
    lives, also to a file that is gone.
    """
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    for store in (Registry, Tracking):
        if uri in store._engine_map:
            store._engine_map[uri].dispose()


def _ensure_schema(file: Path, files: str) -> None:
    """Create MLflow's SQLite schema, or bring it up to date, whole or not at all; the caller holds
    the lock.

    `files` is where MLflow's own experiment, `Default`, would keep files.

    Several processes on a fresh file break it for good, and so would a kill half-way: it is made
    under a private name.
    """
    from mlflow.store.db import utils
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if file.exists() and file.stat().st_size:
        engine = utils.create_sqlalchemy_engine(_sqlite_uri(file))
        utils._upgrade_db(engine)  # as `mlflow db upgrade` does
        engine.dispose()
        return
    work = file.with_name(f".{file.name}.new")
    for left in (work, *(Path(f"{base}{end}") for base in (work, file) for end in _JOURNALS)):
        left.unlink(missing_ok=True)
    SqlAlchemyStore(_sqlite_uri(work), files).engine.dispose()
    work.replace(file)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a data base while it is made or renamed; it ends with the process."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
