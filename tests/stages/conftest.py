"""Runs of the text stages that several files of tests look at. To be read only."""

from pathlib import Path

import pytest

from pipeline.planning.planner import Plan
from tests.stages.report_samples import Workshop
from tests.stages.runs import WORKFLOW, library, run

NEAR = "split.near_duplicates=false"  # the library repeats one sentence
SHELF = ("ingest.num_partitions=8", "clean.tables=false", "vocabulary.num_merges=60", NEAR)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The workflow on the embedded books."""
    return run(WORKFLOW, tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """The folder of the small library, and the text stages on it."""
    folder = tmp_path_factory.mktemp("shelf")
    source = f"ingest.source={library(folder / 'books')}"
    plan = run(WORKFLOW, folder / "store", source, *SHELF, stages=("shard", "audit"))
    return folder / "books", plan


@pytest.fixture
def work(tmp_path: Path) -> Workshop:
    """What makes artifacts by hand."""
    return Workshop(tmp_path / "work")
