"""Exported models in MLflow: as LoggedModels, as versions of registered models, and as folders that
`mlflow models serve` takes.

    LoggedModel   one for each exported model, found by its tag `gpt1.fingerprint`. It is PENDING
                  until its files are there; one that a killed process left so is finished.
    version       one for each LoggedModel, found by the same tag
    alias         points to the highest version that was ever given it

So registering again, after whatever, changes nothing that is complete.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from pipeline.planning.provenance import ROOT
from pipeline.tracking.mlflow_server import NOTE, MlflowServer, set_defaults

CODE = Path(__file__).with_name("served_model.py")
FINGERPRINT = "gpt1.fingerprint"
REQUIREMENTS = (
    "mlflow", "torch", "safetensors", "numpy", "pandas", "ftfy", "spacy", "scikit-learn",
)
ABOUT = (
    "One version per model that `gpt1 run` exports. The alias `newest` points to the latest"
    " version, and a profile's name to the latest of that profile."
)
DESCRIBED = 4000  # characters of the model card: MLflow's data base has room for 5,000
VERSIONS = "mlflow.modelVersions"  # the tag by which they link a LoggedModel to its versions
ORIGIN = ("mlflow.user", "mlflow.source.")  # how tags of the exporting run begin that it gets, too
SHAPE = ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size")  # of transformers' config.json
SENTENCE = "It wasn't the first time."


@dataclass(frozen=True)
class Training:
    """The job that trained a model: its MLflow run, when it ended (ms since 1970), and what its
    record says of settings and results.
    """

    run_id: str
    finished: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]


def register(
    server: MlflowServer, run_id: str, name: str, exported: Path, fingerprint: str,
    aliases: Sequence[str] = (), training: Training | None = None,
) -> None:
    """Make the export in the folder `exported` a LoggedModel, an output of the run that exported
    it, and a version of the registered model `name`; once for each fingerprint.

    `aliases` point to that version unless they point to a later one: `models:/NAME@ALIAS`. Signs
    that MLflow refuses in names become `_`.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client, name = server.client, re.sub(r"[^\w\-. ]", "_", name)
    card, task = _card(exported, fingerprint), _task(exported)
    model = _find_model(server, fingerprint)
    if model is None:
        origin = client.get_run(run_id).data.tags.items()
        tags = {tag: value for tag, value in origin if tag.startswith(ORIGIN)}
        model = client.create_logged_model(
            server.experiment_id, name.replace(".", "_"), run_id,
            {**tags, FINGERPRINT: fingerprint, NOTE: card}, _params(exported, task, training),
            task.name if task else "text-generation",
        )
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_mlflow_model(Path(scratch) / "model", exported, model)
            server.log_model_files(model.model_id, folder)
        _log_metrics(client, model.model_id, run_id, training)
        client.finalize_logged_model(model.model_id, "READY")
    outputs = client.get_run(run_id).outputs
    if not outputs or model.model_id not in [one.model_id for one in outputs.model_outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    version = _version(client, name, model, fingerprint, card)
    known = client.get_registered_model(name).aliases
    for alias in (re.sub(r"[^\w-]", "_", alias) for alias in aliases):
        if int(known.get(alias, 0)) < int(version):
            client.set_registered_model_alias(name, alias, version)


def _find_model(server: MlflowServer, fingerprint: str) -> Any | None:
    """The LoggedModel with a fingerprint; the first, should there be two."""
    found = server.client.search_logged_models(
        [server.experiment_id], f"tags.`{FINGERPRINT}` = '{fingerprint}'",
        order_by=[{"field_name": "creation_time", "ascending": True}],
    )
    return found[0] if found else None


def _version(client: Any, name: str, model: Any, fingerprint: str, card: str) -> str:
    """The number of the version of a LoggedModel, which is created if there is none."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=ABOUT)
    where = f"name = '{name}' and tags.`{FINGERPRINT}` = '{fingerprint}'"
    found = client.search_model_versions(where)
    # By its address, not models:/ID: without a server MLflow would look for that ID elsewhere.
    version = found[-1] if found else client.create_model_version(
        name, model.artifact_location, model.source_run_id, {FINGERPRINT: fingerprint},
        description=card, model_id=model.model_id,
    )  # fmt: skip
    link = {"name": name, "version": int(version.version)}
    links = json.loads(client.get_logged_model(model.model_id).tags.get(VERSIONS, "[]"))
    if not any(str(one["version"]) == str(version.version) for one in links):
        client.set_logged_model_tags(model.model_id, {VERSIONS: json.dumps([*links, link])})
    return str(version.version)


def _log_metrics(client: Any, model_id: str, run_id: str, training: Training | None) -> None:
    """The results of the training as metrics of the model: the very points of the training's run,
    which gets no new ones by that. What is no point of it is one of the exporting run, `run_id`.
    """
    from mlflow.entities import Metric

    if training is None:
        return
    points: dict[str, list[Any]] = {training.run_id: [], run_id: []}
    for name, value in training.metrics.items():
        where, time, step = run_id, training.finished, 0
        for point in client.get_metric_history(training.run_id, name):
            if point.value == value:
                where, time, step = training.run_id, point.timestamp, point.step
        points[where].append(Metric(name, value, time, step, model_id=model_id))
    for where, metrics in points.items():
        if metrics:
            client.log_batch(where, metrics=metrics)


def _params(exported: Path, task: Any | None, training: Training | None) -> dict[str, str]:
    config = json.loads((exported / "config.json").read_bytes())
    found = {**(training.params if training else {}), **{name: config[name] for name in SHAPE}}
    found |= {"task": task.name} if task else {}
    return {name: str(value) for name, value in found.items()}


def _task(exported: Path) -> Any | None:
    """The task of a fine-tuned model; None for a language model. ValueError: this version of gpt1
    does not know it.
    """
    from gpt1.tasks.registry import recorded_task

    head = exported / "head.json"
    try:
        return recorded_task(json.loads(head.read_bytes())) if head.is_file() else None
    except UserError as error:
        raise ValueError(str(error)) from error


def _card(exported: Path, fingerprint: str) -> str:
    """The model card from its title on, with the fingerprint below that."""
    card = exported / "README.md"
    text = card.read_text(encoding="utf-8").partition("\n# ")[2] if card.is_file() else ""
    title, _, rest = text.partition("\n")
    return f"# {title or 'GPT-1'}\n\nFingerprint: `{fingerprint}`\n{rest}"[:DESCRIBED]


def write_mlflow_model(folder: Path, exported: Path, model: Any = None) -> Path:
    """Write an MLflow model of the export `exported` into the new folder `folder`; it holds
    gpt1's code as well. `model`: the LoggedModel that it becomes.
    """
    from importlib.metadata import version

    set_defaults()
    from mlflow import pyfunc
    from mlflow.models import Model

    task = _task(exported)
    about = None
    if model is not None:
        place, made_by, model_id = model.artifact_location, model.source_run_id, model.model_id
        about = Model(place, made_by, model_uuid=model_id, model_id=model_id)
    with warnings.catch_warnings(action="ignore"):
        pyfunc.save_model(
            path=str(folder), python_model=str(CODE), mlflow_model=about,
            artifacts={"model": exported.absolute().as_uri()}, code_paths=[str(ROOT / "gpt1")],
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            signature=_signature(task is not None), input_example=_example(task),
        )
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    return folder


def _example(task: Any | None) -> Any:
    """A row that the model can answer."""
    from pandas import DataFrame

    if task is None:
        return DataFrame({"prompt": [SENTENCE]})
    row: dict[str, Any] = {"text": SENTENCE}
    if task.kind in ("entailment", "similarity"):
        row["text_b"] = "It had happened before."
    if task.choices:
        row["choices"] = [f"answer {number + 1}" for number in range(task.choices)]
    return DataFrame([row])


def _signature(tuned: bool) -> Any:
    """What a Predictor takes and returns."""
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, ColSpec, DataType

    from gpt1.tasks.predictor import PARAMETERS

    def schema(always: str, **of_tuned: Any) -> Any:
        """A column of text that a language model needs, and those of a fine-tuned one."""
        more = [ColSpec(kind, name, required=False) for name, kind in of_tuned.items()]
        first = ColSpec(DataType.string, always, required=not tuned)
        return Schema([first, *(more if tuned else ())])

    text, number = DataType.string, DataType.double
    kinds = {bool: DataType.boolean, int: DataType.long, float: DataType.double}
    given = [ParamSpec(name, kinds[type(value)], value) for name, value in PARAMETERS.items()]
    return ModelSignature(
        inputs=schema("prompt", text=text, text_b=text, choices=Array(text)),
        outputs=schema("text", id=text, label=text, value=number, probabilities=Array(number)),
        params=ParamSchema(given),
    )
