"""Applies entries of the outbox to MLflow.

Any may come twice (a crash between sending and acknowledging); that changes nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.store.atomic import read_json, replace_file, to_json
from pipeline.store.base import Store
from pipeline.tracking.mlflow_server import REFUSALS, MlflowServer
from pipeline.tracking.outbox import Entry, Outbox

UID = "gpt1.uid"  # the tag that carries our name of a run


class Recorder:
    """One tracking server as the outbox sees it.

    Not for more than one thread; `ids` may be read by any.
    """

    def __init__(self, store: Store, uri: str, outbox: Outbox, info: Callable[[str], None]) -> None:
        self.uri = uri
        self._store = store
        self._outbox = outbox
        self._say = info
        self._said: set[tuple[str, str]] = set()
        self._server = MlflowServer(store, uri, info)
        self._client: Any = None
        self._experiment = ""
        # A digest and not the address, which may hold a password.
        self._map = outbox.folder / f"runs-{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json"
        self.ids: dict[str, str] = read_json(self._map) or {}

    def apply(self, entries: Sequence[Entry]) -> None:
        """Send entries in order; points of a run between its other entries go as one batch.

        Raises when there is no server.
        """
        self._connect()
        known = dict(self.ids)
        points: dict[str, list[Entry]] = {}
        try:
            for entry in entries:
                if entry["do"] == "metrics":
                    points.setdefault(entry["uid"], []).append(entry)
                    continue
                self._attempt("metrics", entry["uid"], self._metrics, points.pop(entry["uid"], []))
                self._attempt(entry["do"], entry["uid"], getattr(self, f"_{entry['do']}"), entry)
            for uid, rest in points.items():
                self._attempt("metrics", uid, self._metrics, rest)
        finally:
            if self.ids != known:
                replace_file(self._map, to_json(self.ids))

    def _attempt(self, do: str, uid: str, action: Callable[[Any], None], argument: Any) -> None:
        """What the server refuses for good is said once and dropped, so that it does not hold up
        what comes after it.
        """
        from mlflow.exceptions import MlflowException

        if not argument:
            return
        try:
            action(argument)
        except (MlflowException, LookupError, TypeError, ValueError) as error:
            if isinstance(error, OSError) or (
                isinstance(error, MlflowException) and error.error_code not in REFUSALS
            ):
                raise
            if (do, uid) not in self._said:
                self._said.add((do, uid))
                self._say(f"MLflow rejected {do} of run {uid}: {brief(error)}")

    def _connect(self) -> None:
        client = self._server.client
        if client is not self._client:
            self._client, self._experiment = client, self._server.experiment_id
            if self.ids and not self._search(next(iter(self.ids))):  # a new data base
                self.ids.clear()
                replace_file(self._map, to_json(self.ids))

    def _search(self, uid: str) -> list[str]:
        """The MLflow ids of the runs that carry `uid`, oldest first: more than one only after a
        creation whose answer was lost.
        """
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        found = self._client.search_runs(
            [self._experiment], f"tags.`{UID}` = '{uid_tag(uid)}'", order_by=order
        )
        return [run.info.run_id for run in found]

    def _run(self, uid: str) -> str:
        """The MLflow id of a run; one that this server does not know is created from its `start`
        entry.
        """
        if uid not in self.ids:
            found = self._search(uid)
            if found:
                self.ids[uid] = found[0]
            elif uid in self._outbox.runs and self._outbox.runs[uid].start:
                self._create(self._outbox.runs[uid].start or {})
            else:
                raise LookupError("no such run was ever started")
        return self.ids[uid]

    def _create(self, entry: Entry) -> None:
        run = self._client.create_run(
            self._experiment, entry["time"], self._tags_of(entry), entry["name"]
        )
        self.ids[entry["uid"]] = run.info.run_id

    def _tags_of(self, entry: Entry) -> dict[str, str]:
        parent = {"mlflow.parentRunId": self._run(entry["parent"])} if entry["parent"] else {}
        return {**entry["tags"], **parent, UID: uid_tag(entry["uid"])}

    def _start(self, entry: Entry) -> None:
        for run_id in [self.ids.get(entry["uid"]), *self._search(entry["uid"])]:
            if run_id and self._reopen(run_id, entry):
                return
        self._create(entry)

    def _reopen(self, run_id: str, entry: Entry) -> bool:
        from mlflow.exceptions import MlflowException

        tags = self._tags_of(entry)
        try:
            self._client.update_run(run_id, status="RUNNING")
            self._send_tags(run_id, tags)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            return False  # deleted by somebody
        self.ids[entry["uid"]] = run_id
        return True

    def _end(self, entry: Entry) -> None:
        run_id = self._run(entry["uid"])
        self._client.set_terminated(run_id, entry["status"], entry["time"])
        for other in self._search(entry["uid"]):
            if other != run_id:
                self._client.delete_run(other)

    def _params(self, entry: Entry) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        run_id, params = self._run(entry["uid"]), entry["values"]
        try:
            for some in _groups(list(params.items()), 100):
                self._client.log_batch(run_id, params=[Param(key, value) for key, value in some])
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            there = self._client.get_run(run_id).data.params
            rest = {key: value for key, value in params.items() if key not in there}
            if len(rest) < len(params):
                self._params({**entry, "values": rest})
            changed = [
                f"{key} = {there[key]!r}, not {value!r}"
                for key, value in params.items()
                if there.get(key, value) != value
            ]
            if changed:
                raise ValueError(
                    f"a parameter cannot change; MLflow kept {'; '.join(changed)}"
                ) from None

    def _metrics(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        run_id = self._run(entries[0]["uid"])
        points = [
            Metric(name, float(value), e["time"], e["step"])
            for e in entries
            for name, value in e["values"].items()
        ]
        for some in _groups(points, 1000):
            self._client.log_batch(run_id, metrics=some)

    def _tags(self, entry: Entry) -> None:
        self._send_tags(self._run(entry["uid"]), entry["values"])

    def _send_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for some in _groups(list(tags.items()), 100):
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in some])

    def _artifact(self, entry: Entry) -> None:
        path = self._store.local(entry["path"])
        if not path.is_file():
            raise LookupError(f"{entry['path']} is gone")
        self._server.log_run_files(self._run(entry["uid"]), path, entry["folder"])

    def _reference(self, entry: Entry) -> None:
        self._server.write_json(self._run(entry["uid"]), entry["name"], entry["content"])

    def _model(self, entry: Entry) -> None:
        from pipeline.tracking.model_registry import register

        path = self._store.local(entry["path"])
        if not path.is_dir():
            raise LookupError(f"{entry['path']} is gone")
        aliases = entry.get("aliases", [])  # an outbox from before them has none
        register(
            self._client, self._server.log_run_files, self._run(entry["uid"]), entry["name"], path,
            entry["fingerprint"], aliases,
        )

    def _dataset(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        kind = {"http": "http", "https": "http", "s3": "s3"}.get(
            entry["source"].partition(":")[0], "local"
        )
        source = json.dumps(
            {"uri": entry["source"], "url": entry["source"]}
        )  # the UI reads either, by the kind
        dataset = Dataset(entry["name"], entry["digest"], kind, source)
        context = [InputTag("mlflow.data.context", entry["context"])]
        self._client.log_inputs(self._run(entry["uid"]), [DatasetInput(dataset, context)])


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file; BlockingIOError when another process has it and `wait` is false.

    It ends with the process at the latest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def uid_tag(uid: str) -> str:
    """The value of the tag UID: MLflow's filters know no way to write a quotation mark."""
    return uid.replace("'", "%27")


def brief(error: BaseException) -> str:
    """An exception as part of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _groups(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
