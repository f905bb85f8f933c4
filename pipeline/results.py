"""The results of a store, for notebooks and scripts.

Not in `gpt1`, which knows no stores: another reader of records there would return files that were
not compared with their records, and could not read S3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.planning.last_run import RunArtifacts, last_artifacts
from pipeline.store.base import Store
from stages.contract import Artifact

if TYPE_CHECKING:
    from gpt1.data.shards import Shards
    from gpt1.tokenizer.tokenizer import Tokenizer
    from gpt1.weights.checkpoint import Checkpoint


def open_store(where: str | Path = "store") -> StoreResults:
    """What the last run of the store in a folder, or at s3://BUCKET/FOLDER, has made.

    UserError where there is no store, or no run is recorded in it.

        >>> results = open_store("store")
        >>> results.checkpoint("pretrain").model, results.tokenizer(), results.shards("train")
    """
    return StoreResults(last_artifacts(Store.existing(where)))


@dataclass(frozen=True)
class StoreResults:
    """The results of one run. A job is named by its id (`finetune[task=rte,seed=1]`) or stage.

    Each method raises UserError for a job that the run does not have or has not made.
    """

    artifacts: RunArtifacts

    @property
    def jobs(self) -> list[str]:
        """The jobs that are made."""
        return [cell for cell in self.artifacts.cells if self.artifacts.record(cell)]

    def summary(self, job: str) -> Mapping[str, Any]:
        """The figures of a job."""
        return self._artifact(job).summary

    def file(self, job: str, name: str) -> Path:
        """A file of a job on this host, its sha256 checked."""
        return self.artifacts.store.fetch(self._artifact(job).file(name))

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the run's vocabulary."""
        from gpt1.tokenizer.tokenizer import Tokenizer

        artifact = self._artifact("vocabulary")
        name = artifact.under("encoder_bpe_")[0].name
        return Tokenizer.from_pretrained(self.artifacts.store.fetch_folder(artifact, name))

    def shards(self, set: str = "train") -> Shards:
        """The token ids of the books of a set, `train` or `held_out`."""
        from gpt1.data.shards import Shards

        artifact, fetch = self._artifact("shard"), self.artifacts.store.fetch
        paths = [fetch(file) for file in artifact.under(f"{set}/")]
        return Shards.open(paths, fetch(artifact.file("books.parquet")), set)

    def checkpoint(self, job: str = "pretrain") -> Checkpoint:
        """The model of a job with its vocabulary; `pretrain@300`: its snapshot of step 300."""
        from pipeline.cli.model_lookup import resolve_model

        return resolve_model(job, lambda: self.artifacts).checkpoint

    def _artifact(self, job: str) -> Artifact:
        kinds = {place.rpartition("/")[0] for place in self.artifacts.cells.values()}
        return self.artifacts.choose(job, kinds).artifact()
