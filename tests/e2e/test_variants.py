"""A variant of the model in a real run, from two ranks of pre-training to a fine-tuned model."""

import json
from pathlib import Path

import pytest

from tests.e2e.workflow import done, gpt1, outputs, records
from tests.pipeline.test_variants import TASK, UNTIED, project

pytestmark = pytest.mark.slow

CHANGES = {
    "pretrain": {"matrix": {"model": ["gpt", UNTIED]}},
    "finetune": {
        "with": {**TASK, "keep_model": True},
        "matrix": {"model": [UNTIED], "variant": ["full", "no_auxiliary_lm"]},
    },
    "zero_shot": {"matrix": {"task": ["demo_choice"], "model": ["gpt", UNTIED]}},
    "transfer": {"with": {"model": UNTIED}, "matrix": {"num_layers_transferred": [1]}},
}  # fmt: skip
LEARNED, TUNED = f"pretrain[model={UNTIED}]", f"finetune[model={UNTIED},variant=full]"
ANSWERS = ("--text", "She went.", "--choice", "He came.", "--choice", "It was.")


def test_it_goes_through_every_stage(golden_run: Path, tmp_path: Path) -> None:
    file, store = project(tmp_path / "project", CHANGES), tmp_path / "store"
    done("run", "--file", file, "--store", store)
    found = records(store)
    own, usual = (found[f"pretrain/{job}"]["summary"] for job in (LEARNED, "pretrain[model=gpt]"))
    assert own["parameters"] - usual["parameters"] == 32 * found["vocabulary/vocabulary"][
        "summary"
    ]["vocabulary"]
    assert own["of_unigram"] < 0.9
    assert found[f"finetune/{TUNED}"]["summary"]["n"] == 60
    assert "finetune/transfer[num_layers_transferred=1]" in found
    assert "variants.py:UntiedHead" in next(store.glob("report/*/*/report.html")).read_text()
    # the default next to it is that of a workflow without variants
    before, after = ({name.replace("[model=gpt]", ""): sha for name, sha in outputs(one).items()
                      if name.startswith(("pretrain/pretrain/", "pretrain/pretrain[model=gpt]/"))}
                     for one in (golden_run, store))  # fmt: skip
    assert before == after != {}

    for model in (LEARNED, f"{LEARNED}@60"):
        text = done("generate", model, "-p", "she", "-n", "5", "--store", store)
        assert text.startswith("she ")
    row = done("predict", TASK["task"], "-m", TUNED, *ANSWERS, "--json", "--store", store)
    assert len(json.loads(row)["probabilities"]) == 2
    ended = gpt1("export", "hf", LEARNED, "--out", tmp_path / "out", "--store", store)
    assert (ended.returncode, f"the model is {UNTIED}, but" in ended.stderr) == (2, True)
    variants = file.with_name("variants.py")
    variants.write_text(f"{variants.read_text()}#\n")
    ended = gpt1("generate", LEARNED, "-n", "2", "--store", store)
    assert (ended.returncode, "variants.py has changed since" in ended.stderr) == (0, True)
    variants.unlink()
    ended = gpt1("generate", LEARNED, "-n", "2", "--store", store)
    assert (ended.returncode, "no file variants.py in the folder" in ended.stderr) == (2, True)
