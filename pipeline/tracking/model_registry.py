"""Exported models as MLflow models: written as a folder that `mlflow models serve` takes, and
entered in the model registry.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.planning.provenance import ROOT

CODE = Path(__file__).with_name("served_model.py")
FINGERPRINT = "gpt1.fingerprint"
REQUIREMENTS = (
    "mlflow", "torch", "safetensors", "numpy", "pandas", "ftfy", "spacy", "scikit-learn",
)
FOLDER = "registered_model"
ABOUT = (
    "One version per model that `gpt1 run` exports. The alias `newest` points to the latest"
    " version, and a profile's name to the latest of that profile."
)
DESCRIBED = 4000  # characters of the model card
_WHILE_WRITING = {
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def write_mlflow_model(folder: Path, exported: Path) -> Path:
    """Write an MLflow model of the export `exported` into the new folder `folder`; it holds
    gpt1's code as well.
    """
    from importlib.metadata import version

    from mlflow import pyfunc

    with _quiet():
        pyfunc.save_model(
            path=str(folder), python_model=str(CODE),
            artifacts={"model": exported.absolute().as_uri()}, code_paths=[str(ROOT / "gpt1")],
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            signature=_signature((exported / "head.json").is_file()),
        )
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow's settings while it writes a model: no bars, no advice, and no names of this
    machine's variables in the model.
    """
    before = {name: os.environ.get(name) for name in _WHILE_WRITING}
    os.environ.update(_WHILE_WRITING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


Log = Callable[[str, Path, str], None]
"""Adds what a folder holds to the files of a run, under a name: run, folder, name."""


def register(
    client: Any, log: Log, run_id: str, name: str, exported: Path, fingerprint: str,
    aliases: Sequence[str] = (),
) -> None:
    """Make the export a version of the registered model `name`, once: a version with its
    fingerprint is left as it is.

    `aliases` point to that version afterwards: `models:/NAME@ALIAS`. The files become artifacts of
    the run, so that the server can hand them to whoever loads `models:/NAME/VERSION`.
    """
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=ABOUT)
    versions = client.search_model_versions(f"name = '{name}'")
    found = next(
        (version for version in versions if version.tags.get(FINGERPRINT) == fingerprint), None
    )
    version = found or _new_version(client, log, run_id, name, exported, fingerprint)
    for alias in aliases:
        client.set_registered_model_alias(name, re.sub(r"[^\w-]", "_", alias), version.version)


def _new_version(
    client: Any, log: Log, run_id: str, name: str, exported: Path, fingerprint: str
) -> Any:
    # One run can export several models of one name (seeds): each has a folder of its own.
    place = f"{FOLDER}/{name}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"
    with tempfile.TemporaryDirectory() as scratch:
        log(run_id, write_mlflow_model(Path(scratch) / "model", exported), place)
    source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
    card = exported / "README.md"  # the model card, from its title on
    about = (
        card.read_text(encoding="utf-8").partition("\n# ")[2][:DESCRIBED]
        if card.is_file()
        else None
    )
    return client.create_model_version(
        name, source, run_id, tags={FINGERPRINT: fingerprint}, description=about
    )


def _signature(tuned: bool) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, ColSpec, DataType

    from gpt1.serve import PARAMETERS

    columns: list[Any] = [ColSpec(DataType.string, "prompt", required=not tuned)]
    if tuned:
        columns += [ColSpec(DataType.string, name, required=False) for name in ("text", "text_b")]
        columns += [ColSpec(Array(DataType.string), "choices", required=False)]
    kinds = {bool: DataType.boolean, int: DataType.long, float: DataType.double}
    return ModelSignature(
        inputs=Schema(columns),
        params=ParamSchema(
            [ParamSpec(name, kinds[type(value)], value) for name, value in PARAMETERS.items()]
        ),
    )
