"""Settings of all stages: what cannot work is refused by name, and each has a reason."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from docs.reference.make import SET_BY_YOU, sources
from gpt1.errors import UserError
from gpt1.settings import field_marks
from gpt1.train.config import PretrainConfig
from pipeline.workflow.stages import load_stage
from stages.contract import Resources
from stages.pretrain import STAGE as PRETRAIN
from stages.task_data import TaskData, TaskDataSettings
from tests.conftest import ROOT, refuses

SHAPE = {"layers": 2, "width": 32, "heads": 2, "context": 64}
DEMO = {"task": "demo_choice"}
RANDOM = {**DEMO, "variant": "no_pretraining"}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("ingest", {"source": ["embedded", "x"]}, "`embedded` cannot be in a list"),
    ("ingest", {"chapter_pattern": r"_ch(\d+)$"}, "chapter_pattern needs a folder"),
    ("ingest", {"source": "x", "chapter_pattern": "("}, "not a valid regular expression"),
    ("ingest", {"source": "x", "chapter_pattern": "_ch"}, "has 0 groups; expected one"),
    ("split", {"related_threshold": 0.8}, "threshold 0.8 is above near_duplicate_threshold 0.6"),
    ("pretrain", {"width": 100, "heads": 3}, "width 100 is not divisible by heads 3"),
    ("pretrain", {"micro_batch_size": 7}, "micro_batch_size 7 does not divide batch_size 64"),
    ("pretrain", {"max_steps": 9, "warmup_steps": 9}, "warmup_steps 9 must be less than max_s"),
    ("pretrain", {"zero": 4}, "0, 1, 2 or 3"),
    ("pretrain", {"layer": 3}, "layer"),
    ("pretrain", {"deepspeed": {"train_batch_size": 8}}, "follows from batch_size"),
    ("task_data", {"task": "rte"}, "needs `source`"),
    ("task_data", {"task": "demo"}, "unknown task 'demo'"),
    ("finetune", {"task": "mnly"}, "did you mean 'mnli'"),
    ("finetune", {"task": "dprd"}, "no training objective"),
    ("finetune", {"task": "rte", "gradient_accumulation_steps": 5}, "32 is not divisible"),
    ("finetune", {"task": "race", "classifier": "label_words"}, "'race' has no label words .*: co"),
    ("finetune", {"task": "stsb", "classifier": "label_words"}, "'stsb' has no label words"),
    ("finetune", {"task": "rte", "loss": "interpolated", "lm_weight": 1}, "expected less than 1"),
    ("shard", {"train_fraction": 0}, "greater than 0"),
    ("zero_shot", {"task": "rte"}, "no zero-shot scoring; choose one of: cola"),
    ("export", {"license": "CC-BY"}, "license"),
]
DATA, MODEL = {"task_data": [DEMO]}, {"pretrain": [{"layers": 4, "context": 64}]}
TWO, BOTH = {**DATA, "pretrain": [{}, {"seed": 2}]}, {**DATA, **MODEL}
UNFIT: list[tuple[str, dict[str, Any], Mapping[str, Any], str]] = [
    ("finetune", {**DEMO, "max_length": 128}, BOTH, "max_length 128 .* context of 64"),
    ("finetune", DEMO, TWO, "2 pretrain jobs match `model: gpt` and pretrain_seed .any.; expec"),
    ("finetune", {"task": "rte"}, MODEL, "no task_data job for task 'rte'"),
    ("finetune", RANDOM, BOTH, "set layers, width, heads, context"),
    ("finetune", {**RANDOM, **SHAPE, "width": 30, "heads": 4}, BOTH, "width 30 .* by heads 4"),
    ("finetune", {**RANDOM, **SHAPE, "max_length": 65}, BOTH, "max_length 65 .* context of 64"),
    ("finetune", {**RANDOM, "num_layers_transferred": 0}, BOTH, "has no layers to transfer"),
    ("finetune", {**DEMO, "variant": "lstm"}, DATA, "no pretrain jobs match `model: lstm`"),
    ("zero_shot", {**DEMO, "model": "lstm"}, DATA, "no pretrain jobs match `model: lstm`"),
    ("export", {}, {"pretrain": []}, "found 0 pretrain jobs with `model: gpt`, expected one"),
    ("finetune", {**DEMO, "num_layers_transferred": 5}, BOTH, "transferred is 5, .* has 4 layers"),
    ("finetune", {"task": "demo_author", "classifier": "label_words", "keep_model": True},
     {**MODEL, "task_data": [{"task": "demo_author"}]}, "label words cannot be saved"),
    ("pretrain", {}, {"shard": [{}, {"train_fraction": 0.5}]}, "2 shard jobs match; expected one"),
    ("task_data", DEMO, {}, "built from the books: add a clean stage"),
]


@pytest.mark.parametrize(("stage", "settings", "named"), REFUSED)
def test_a_value_that_cannot_work(stage: str, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        load_stage(stage).settings_model.model_validate(settings)


@pytest.mark.parametrize(("stage", "settings", "upstream", "named"), UNFIT)
def test_settings_that_do_not_fit(stage: str, settings: Any, upstream: Any, named: str) -> None:
    def model(kind: str, values: dict[str, Any]) -> Any:
        return load_stage(kind).settings_model.model_validate(values)

    before = {kind: [model(kind, one) for one in cells] for kind, cells in upstream.items()}
    refuses(named, load_stage(stage).check, model(stage, settings), before)


@pytest.mark.parametrize(("stage", "given", "name", "value"), [
    ("finetune", {"task": "rte"}, "loss", "interpolated"),
    ("finetune", {"task": "rte"}, "classifier", "label_words"),
    ("shard", {}, "train_fraction", 0.25), ("shard", {}, "sentence_order", "shuffled"),
])  # fmt: skip
def test_a_setting_added_later_enters_the_fingerprint_unless_it_has_its_default(
    stage: str, given: dict[str, Any], name: str, value: Any
) -> None:
    model = load_stage(stage).settings_model
    plain, changed = (
        model.model_validate({**given, **more}).semantic() for more in ({}, {name: value})
    )
    assert (name in plain, changed) == (False, {**plain, name: value})
    written = {name: model.model_fields[name].default}
    assert model.model_validate({**given, **written}).semantic() == plain


def test_folders_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match="no/such/folder of task rte is not a folder"):
        TaskData.external_files(TaskDataSettings(task="rte", source="no/such/folder"))
    with pytest.raises(UserError, match="no/such/weights"):
        PRETRAIN.external_files(PretrainConfig(init_from="no/such/weights"))


def test_a_number_of_ranks_that_does_not_divide_is_refused() -> None:
    """With `min_workers` Ray takes any number that there is room for."""
    settings = PretrainConfig(batch_size=96, micro_batch_size=8)
    for workers, least in ((4, None), (4, 4), (4, 1), (4, 3), (1, 1)):
        PRETRAIN.check_resources(settings, Resources(workers=workers, min_workers=least))
    with pytest.raises(UserError, match=r"workers: 8 ranks .*one of \[1, 2, 3, 4, 6, 12\]"):
        PRETRAIN.check_resources(settings, Resources(workers=8))
    named = r"from 3 to 6, but 5 cannot .* from 6 to 6, or a multiple of 60 micro-batches"
    with pytest.raises(UserError, match=named):
        PRETRAIN.check_resources(settings, Resources(workers=6, min_workers=3))


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_every_setting_has_one_reason_to_be_there(kind: str) -> None:
    """A row of the paper, the code of 2018, `stages` or a profile; or `debug:`; or the list of what
    a user sets.
    """
    workflow = yaml.safe_load((ROOT / "workflow.yaml").read_text())
    fields, by_you = load_stage(kind).settings_model.model_fields, SET_BY_YOU[kind][1].split()
    assert set(by_you) <= fields.keys()
    for name, field in fields.items():
        reasons = [sources(workflow, kind, name, field), field_marks(field).get("debug")]
        assert sum(map(bool, [*reasons, name in by_you])) == 1, f"{kind}.{name}: {reasons}"
