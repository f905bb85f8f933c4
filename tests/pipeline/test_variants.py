"""Variants of the model in a workflow: fingerprints, what jobs start from, what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.execution.jobs import SENT_USER_CODE, JobSpec, _pack
from pipeline.planning.planner import Plan
from pipeline.planning.provenance import _hash, code_hash
from pipeline.workflow.imports import imported_by
from pipeline.workflow.load import read
from pipeline.workflow.user_code import NONE, install
from tests.conftest import ROOT, refuses, write
from tests.e2e.workflow import MINI
from tests.pipeline.inline import plan_of
from tests.pipeline.inprocess import refused

RELU, UNTIED = "variants.py:ReLU", "variants.py:UntiedHead"
VARIANTS = (ROOT / "examples" / "variants" / "variants.py").read_text()
KINDS = {"model": ["gpt", RELU]}
SHAPE = {"layers": 2, "width": 32, "heads": 2, "context": 32}
TASK = {"task": "demo_choice"}
MODELS = {"pretrain": {"matrix": KINDS}, "finetune": {"matrix": KINDS, "with": TASK}}


@pytest.fixture(autouse=True)
def no_user_code() -> Iterator[None]:
    yield
    install(NONE)


def project(folder: Path, changes: Mapping[str, Any], **files: str) -> Path:
    """The small workflow with changed stages, and the variants in its folder."""
    document = yaml.safe_load(MINI.read_text())
    for stage, changed in changes.items():
        if changed is None:
            del document["stages"][stage]
            document["stages"]["report"]["needs"].remove(stage)
            continue
        spec = document["stages"][stage]
        document["stages"][stage] = {**spec, **changed, "with": {
            **spec.get("with", {}), **changed.get("with", {}),
        }}  # fmt: skip
    text = yaml.safe_dump(document, sort_keys=False)
    named = {f"{name}.py": text for name, text in {"variants": VARIANTS, **files}.items()}
    return write(folder, {"workflow.yaml": text, **named}) / "workflow.yaml"


def prints(plan: Plan) -> dict[str, str]:
    return {cell: entry.fingerprint for cell, entry in plan.entries.items()}


def test_a_file_that_changes_changes_its_jobs_alone(tmp_path: Path) -> None:
    file = project(tmp_path, MODELS)
    before = prints(plan_of(file, tmp_path / "store"))
    assert prints(plan_of(file, tmp_path / "store")) == before
    elsewhere = project(tmp_path / "elsewhere", MODELS, helper="")
    assert prints(plan_of(elsewhere, tmp_path / "store")) == before
    (tmp_path / "variants.py").write_text(f"{VARIANTS}# changed\n")
    after = prints(plan_of(file, tmp_path / "store"))
    stale = {cell for cell in before if after[cell] != before[cell]}
    assert stale == {f"pretrain[model={RELU}]", f"finetune[model={RELU}]", "report"}


def test_the_default_has_the_fingerprint_of_before(tmp_path: Path) -> None:
    """Naming it, or choosing a seed, adds nothing to an identity."""
    usual = plan_of(MINI, tmp_path / "store").entries
    named = plan_of(project(tmp_path, MODELS), tmp_path / "store").entries
    seeds = plan_of(MINI, tmp_path / "store", "finetune.pretrain_seed=0").entries
    for plan in (named, seeds):
        print_ = usual["pretrain"].fingerprint
        assert print_ in {entry.fingerprint for entry in plan.values()}
    assert usual["pretrain"].identity["files"] == {}
    given = usual["finetune[task=demo_choice,seed=1]"]
    assert given.fingerprint == seeds["finetune[task=demo_choice,seed=1]"].fingerprint
    assert given.fingerprint == named["finetune[model=gpt]"].fingerprint
    assert not {"model", "pretrain_seed"} & given.identity["with"].keys()
    own = named[f"finetune[model={RELU}]"].identity["files"]
    assert own == named[f"pretrain[model={RELU}]"].identity["files"] != {}


def test_jobs_find_the_model_of_their_kind_and_seed(tmp_path: Path) -> None:
    changes = {
        "pretrain": {"matrix": {**KINDS, "seed": [1, 2]}},
        "finetune": {
            "with": {**TASK, "pretrain_seed": "same"}, "matrix": {**KINDS, "seed": [1, 2]},
        },
        "zero_shot": {"with": TASK, "matrix": {**KINDS, "pretrain_seed": [1, 2]}},
        "transfer": {"with": {"pretrain_seed": 2, "model": RELU}}, "export": None,
    }  # fmt: skip
    cells = read(project(tmp_path, changes)).cells
    for kind in KINDS["model"]:
        for seed in (1, 2):
            wanted = (f"pretrain[model={kind},seed={seed}]",)
            tuned = cells[f"finetune[model={kind},seed={seed}]"]
            scored = cells[f"zero_shot[model={kind},pretrain_seed={seed}]"]
            assert tuned.inputs["pretrain"] == scored.inputs["pretrain"] == wanted
    wanted = (f"pretrain[model={RELU},seed=2]",)
    assert cells["transfer[num_layers_transferred=1]"].inputs["pretrain"] == wanted


def test_a_variant_without_pre_training_is_its_own_job(tmp_path: Path) -> None:
    kinds = ["gpt", RELU, UNTIED]
    spec = {"with": {**TASK, "variant": "no_pretraining", **SHAPE},
            "matrix": {"model": kinds}}  # fmt: skip
    plan = plan_of(project(tmp_path, {"finetune": spec}), tmp_path / "store")
    tuned = [plan.entries[f"finetune[model={kind}]"] for kind in kinds]
    assert len({entry.fingerprint for entry in tuned}) == 3
    assert not any("pretrain" in entry.cell.inputs for entry in tuned)
    kept = [entry.cell.settings.keep_model for entry in tuned]  # type: ignore[attr-defined]
    assert kept == [True, False, False]


def test_the_file_travels_with_a_submitted_job_and_helpers_are_hashed(tmp_path: Path) -> None:
    helped = f"{VARIANTS}\nimport helper\n"
    file = project(tmp_path, MODELS, variants=helped, helper="HELPER = 1\n")
    code = read(file).user_code
    assert code.entries == ["helper.py", "variants.py"]
    sent = _pack(tmp_path / "packed", file, code) / SENT_USER_CODE
    assert (sent / "variants.py").read_text() == helped
    key, hashes = JobSpec(file, (), code=code).key, []
    for text in ("HELPER = 1\n", "HELPER = 2\n"):
        (tmp_path / "helper.py").write_text(text)
        _hash.cache_clear()
        imported_by.cache_clear()
        hashes.append([code_hash("pretrain", None, kind) for kind in ("gpt", RELU)])
    assert (hashes[0][0] == hashes[1][0], hashes[0][1] == hashes[1][1]) == (True, False)
    assert JobSpec(file, (), code=code).key != key


ONLY = {"pretrain": {"with": {"model": RELU}}}
TUNED = {**ONLY, "finetune": {"with": {"model": RELU}}, "zero_shot": {"with": {"model": RELU}},
         "transfer": {"with": {"model": RELU}}}  # fmt: skip
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pretrain": {"with": {"model": "gone.py:X"}}}, r"yaml:\d+: .*no file gone.py in the folder"),
    ({"pretrain": {"with": {"model": "variants.py:X"}}}, "variants.py has no X; expected a subcl"),
    ({"pretrain": {"with": {"model": "variants.py:Block"}}}, "has <class .*> as Block; expected"),
    ({"pretrain": {"with": {"model": "broken.py:X"}}}, "broken.py:1: not valid Python"),
    ({"pretrain": {"with": {"model": "raises.py:X"}}}, "raises.py cannot be imported .*KeyError"),
    ({"pretrain": {"with": {"model": "unbuilt.py:X"}}}, "unbuilt.py:X cannot be built .*TypeError"),
    ({"pretrain": {"with": {"model": "yaml.py:X"}}}, "'yaml' is .*but 'yaml' is also"),
    (ONLY, "no pretrain jobs match `model: gpt`"),
    (TUNED, "found 0 pretrain jobs with `model: gpt`, expected one: transformers has no class"),
    ({"finetune": {"with": {"model": RELU}}}, "no pretrain jobs match `model: variants.py:ReLU`"),
    ({"finetune": {"with": {"pretrain_seed": 7}}}, r"no pretrain jobs match .* \(7\); expected"),
    ({"zero_shot": {"with": {"pretrain_seed": "same"}}}, r"no pretrain jobs .* \(same\)"),
    ({"pretrain": {"matrix": {"seed": [1, 2]}}}, r"2 pretrain jobs match .* pretrain_seed \(any\)"),
    ({"finetune": {"with": {"variant": "lstm", "model": RELU}}}, "variant lstm has its own model"),
    ({"finetune": {"with": {"variant": "no_pretraining", "model": "lstm"}}}, "has no LSTM"),
    ({"finetune": {"with": {"variant": "no_pretraining", "pretrain_seed": 1}}}, "pretrain_seed"),
]
BAD = {
    "broken": "STAGE = 1 +", "raises": "{}['x']", "yaml": "",
    "unbuilt": "from gpt1.model.gpt import GPT\nclass X(GPT):\n    def __init__(self): pass\n",
}


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_what_cannot_be_meant_is_refused_by_the_plan(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    refuses(said, read, project(tmp_path, changes, **BAD))


def test_a_variant_is_not_packed(tmp_path: Path) -> None:
    file = project(tmp_path, {**TUNED, "export": None})
    said = r"pretrain: its model variants.py:ReLU is in a file of yours"
    refused(said, "pack", tmp_path / "out", "--file", file, cwd=tmp_path)
