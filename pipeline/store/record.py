"""The record of an artifact: the one place that knows its fields.

    STAGE/FINGERPRINT/record.json     what an attempt made; created once, if there is none
    STAGE/FINGERPRINT/record-2.json   what was made after the first was withdrawn, and so on

The last one counts. A record is never deleted: to withdraw it, it is replaced by itself with a
reason in `withdrawn`, and only then the next one may be created. So one who comes late, with a
record to publish or one to withdraw, changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpt1.errors import UserError
from gpt1.paths import leads_out
from pipeline.store.atomic import sign, unsign
from stages.contract import PROVENANCE, Artifact, StoredFile

PARTS = ".parts"
"""How the kinds of parts end."""


class DamagedArtifact(UserError):
    """Files of artifacts are not what their records say. `keys`: those files."""

    def __init__(self, message: str, keys: tuple[str, ...]) -> None:
        super().__init__(message)
        self.keys = keys

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.keys)


class UnreadableRecord(Exception):
    """Why a record does not count."""


class ArtifactRecord(BaseModel):
    """What is known of an artifact: of a job, or of a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[2] = 2
    stage: str
    fingerprint: str
    attempt: str
    cell: str
    """The job's id, or the part's name."""
    digest: str
    """Of the names and contents of all files that are not volatile."""
    files: dict[str, StoredFile]
    """By name: in its own attempt, or in one of a part."""
    identity: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    summary: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    """Fingerprints by job."""
    input_digests: dict[str, str] = Field(default_factory=dict)
    """Digests by fingerprint."""
    parts: dict[str, int] = Field(default_factory=dict)
    resources: dict[str, Any] = Field(default_factory=dict)
    run: str = ""
    started: float = 0.0
    finished: float = 0.0
    seconds: float = 0.0
    code: str = ""
    git_commit: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    host: str = ""
    user: str = ""
    machine: str = ""
    withdrawn: str = ""
    """Why it does not count any more."""

    def artifact(self) -> Artifact:
        """What stages see of it."""
        provenance = {name: getattr(self, name) for name in PROVENANCE}
        return Artifact(
            self.stage, self.cell, self.fingerprint, self.digest, self.settings, self.summary,
            self.files, provenance,
        )

    def to_bytes(self) -> bytes:
        """As JSON with the sha256 of its own content."""
        return sign(self.model_dump_json(indent=1).encode())

    @classmethod
    def from_bytes(cls, data: bytes, stage: str, fingerprint: str) -> ArtifactRecord:
        """The inverse, of the record at that place. Raises UnreadableRecord."""
        body = unsign(data)
        if body is None:
            is_older = b'"record_version"' in data
            why = "it is of an older format" if is_older else "its content has another sha256"
            raise UnreadableRecord(why)
        try:
            found = cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UnreadableRecord(f"{where}: {first['msg']}") from None
        if (found.stage, found.fingerprint) != (stage, fingerprint):
            raise UnreadableRecord(f"it is that of {found.stage}/{found.fingerprint}")
        for name, file in found.files.items():
            check_name(name, file.key, stage)
        return found


def check_name(name: str, key: str, stage: str) -> None:
    """Raise UnreadableRecord for a file outside of the folders of its own stage: others may write
    to a shared store.
    """
    own = stage.removesuffix(PARTS)
    for path in (name, key):
        if leads_out(path):
            raise UnreadableRecord(f"it names {path!r}, which is outside of the store")
    if key.split("/")[0] not in (own, own + PARTS) or key.count("/") < 3:
        raise UnreadableRecord(f"it names {key!r}, which is not a file of {own}")


def content_digest(files: Mapping[str, StoredFile]) -> str:
    """One digest over the names and hashes of all files that are not volatile."""
    hashed = hashlib.sha256()
    for name in sorted(files):
        if not files[name].volatile:
            hashed.update(f"{name}\0{files[name].sha256}\n".encode())
    return hashed.hexdigest()


def record_name(number: int) -> str:
    """The name of the record that is the first, second, ... of its artifact."""
    return "record.json" if number == 1 else f"record-{number}.json"


def record_number(name: str) -> int:
    """The inverse; 0 for another name."""
    if name == record_name(1):
        return 1
    digits = name.removeprefix("record-").removesuffix(".json")
    return int(digits) if digits.isdecimal() and name == record_name(int(digits)) else 0
