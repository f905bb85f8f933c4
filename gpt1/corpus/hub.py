"""Files of a repository of the Hugging Face hub: listed without a download, pinned by commit,
read through the hub's own cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from gpt1.corpus.document import SourceFile, first_line
from gpt1.errors import UserError

SCHEME = "hf://"
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_FORM = "hf://datasets/OWNER/NAME[@REVISION][/FOLDER or FILE]"
_KINDS = {"datasets": "dataset", "spaces": "space"}
_FOLDERS = {"dataset": "datasets/", "space": "spaces/", "model": ""}


@dataclass(frozen=True)
class HubPlace:
    """A place on the hub: the repository, its revision (a branch, tag or commit) and the path
    inside ("": all of it).
    """

    kind: str
    repository: str
    revision: str
    inside: str

    @property
    def url(self) -> str:
        """The same as one string; `parse_hub` reads it back."""
        revision = self.revision.replace("/", "%2F")
        return f"{SCHEME}{_FOLDERS[self.kind]}{self.repository}@{revision}/{self.inside}"


def parse_hub(source: str) -> HubPlace:
    """`hf://datasets/owner/name@revision/folder`; without `datasets/` it is a model's repository.

    UserError for anything else.
    """
    words = source.removeprefix(SCHEME).strip("/").split("/")
    kind = _KINDS.get(words[0], "model")
    words = words[kind != "model" :]
    # The oldest data sets have no owner: `hf://datasets/bookcorpus`, with or without a revision.
    owned = len(words) > 1 and "@" not in words[0]
    repository, _, revision = "/".join(words[: 1 + owned]).partition("@")
    inside = words[1 + owned :]
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", repository) or ".." in inside:
        raise UserError(f"{source}: not a repository on the hub; expected {_FORM}.")
    revision = revision.replace("%2F", "/") or "main"
    return HubPlace(kind, repository, revision, "/".join(inside))


def list_hub(source: str) -> list[SourceFile]:
    """The files below the place at the commit that its revision is now, by their paths in the
    repository.

    The hub is asked where it can be reached; offline (`HF_HUB_OFFLINE=1`, or no answer) the cache
    on this machine says what it has. A file's digest is the hub's: sha256 for large files, git's
    for small ones. UserError when neither knows the revision.
    """
    place = parse_hub(source)
    commit, files = _ask_hub(place) or _look_in_cache(place, source)
    return [
        SourceFile(name, HubPlace(place.kind, place.repository, commit, name).url, digest)
        for name, digest in sorted(files.items())
        if not place.inside or name == place.inside or name.startswith(f"{place.inside}/")
    ]


def download(url: str) -> Path:
    """The path in the cache on this machine, fetched if need be. UserError when it cannot be
    had.
    """
    from huggingface_hub import hf_hub_download

    place = parse_hub(url)
    try:
        return Path(
            hf_hub_download(
                place.repository, place.inside, repo_type=place.kind, revision=place.revision
            )
        )
    except Exception as error:  # the hub's, the network's or the disk's
        raise UserError(
            f"{url}: cannot be fetched ({first_line(error)}); check the network and run again."
        ) from error


def _ask_hub(place: HubPlace) -> tuple[str, dict[str, str]] | None:
    """The commit and its files with their digests; None when the hub is not to be asked or does
    not answer.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if constants.is_offline_mode():
        return None
    try:
        info: Any = HfApi().repo_info(
            place.repository, repo_type=place.kind, revision=place.revision, files_metadata=True
        )
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code >= 500:
            return None
        raise UserError(
            f"{SCHEME}{place.repository}@{place.revision}: the hub refused access"
            f" ({first_line(error)}); expected {_FORM}. For a private repository, run `hf auth"
            " login` first."
        ) from error
    except HFValidationError as error:
        raise UserError(
            f"{SCHEME}{place.repository}: {first_line(error)}; expected {_FORM}."
        ) from error
    except Exception:  # the network's, of whichever library the hub's client uses
        return None
    files = {
        item.rfilename: item.lfs.sha256 if item.lfs else f"git:{item.blob_id}"
        for item in info.siblings
    }
    return str(info.sha), files


def _look_in_cache(place: HubPlace, source: str) -> tuple[str, dict[str, str]]:
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(
            snapshot_download(
                place.repository, repo_type=place.kind, revision=place.revision,
                local_files_only=True,
            )
        )
    except Exception as error:  # that it is not there, or not a revision's name
        raise UserError(
            f"{source}: the hub cannot be reached, and the local cache has no revision"
            f" {place.revision!r}; connect to the network, or fill the cache with `hf download`."
        ) from error
    files = {
        path.relative_to(snapshot).as_posix(): _cached_digest(path)
        for path in sorted(snapshot.rglob("*"))
        if not path.is_dir()
    }
    return snapshot.name, files


def _cached_digest(path: Path) -> str:
    """A file of the cache is a link to a blob that is called by its digest; where links cannot
    be made, its content is hashed.
    """
    blob = path.readlink().name if path.is_symlink() else ""
    if _SHA256.fullmatch(blob):
        return blob
    if _SHA1.fullmatch(blob):
        return f"git:{blob}"
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
