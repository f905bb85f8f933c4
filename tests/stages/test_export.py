"""The export stage: its folder is what transformers reads, and gives the model's own logits."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from pydantic import ValidationError

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.metrics import Score
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.store import save_model
from pipeline.context import Job, StageContext, run_cell
from pipeline.events import PrintReporter
from pipeline.store import Store
from stages.contract import Artifact, Resources
from stages.export import ExportSettings

transformers = pytest.importorskip("transformers")
VOCABULARY = Vocabulary.from_merges(list("abcdeht"), [("t", "h"), ("th", "e</w>")])
SCORE = Score("accuracy", {"accuracy": 61.25}, 52.5, "majority", 2.2, "binomial", 277)


def publish(store: Store, stage: str, files: dict[str, Path], summary: dict[str, object], **settings: object) -> Artifact:
    """A published artifact of `stage` with copies of these files."""
    job = Job(store, stage, stage, f"{stage}0", {}, settings, (), (), Resources(), cluster=False)
    context = StageContext(job, PrintReporter(stage))
    for name, path in files.items():
        context.output(name).write_bytes(path.read_bytes())
    context.summary(summary)
    context.publish()
    found = store.artifact(stage, f"{stage}0")
    assert found is not None
    return found


@pytest.fixture
def exported(tmp_path: Path) -> tuple[GPT, Artifact]:
    store = Store.at(tmp_path / "store")
    config = ModelConfig(vocabulary=VOCABULARY.size, context=16, width=32, layers=2, heads=4)
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    saved = save_model(tmp_path / "model", model)
    files = VOCABULARY.save(tmp_path / "vocabulary")
    inputs = (
        publish(store, "pretrain", {"model.safetensors": saved}, {"validation_perplexity": 12.5, "steps": 1000, "epochs": None}),
        publish(store, "vocabulary", {file.name: file for file in files}, {}),
    )
    job = Job(store, "export", "export", "export0", {}, {}, inputs, (), Resources(), cluster=False)
    run_cell(job, PrintReporter("export"))
    found = store.artifact("export", "export0")
    assert found is not None
    return model, found


def test_transformers_loads_the_folder_and_gives_the_same_logits(exported: tuple[GPT, Artifact]) -> None:
    model, made = exported
    folder = made.path("hf/config.json").parent
    theirs, info = transformers.OpenAIGPTLMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    ids = torch.randint(0, VOCABULARY.size, (2, 16))
    with torch.no_grad():
        assert float((model.lm_logits(model(ids)) - theirs.eval()(ids).logits).abs().max()) < 1e-5
    assert Vocabulary.load(folder).sha256 == VOCABULARY.sha256


def test_the_card_says_how_well_it_reads_and_how_to_get_the_right_ids(exported: tuple[GPT, Artifact]) -> None:
    _, made = exported
    card = made.path("hf/README.md").read_text()
    assert "| this model | 12.5 |" in card
    assert "| updates | 1,000 |" in card
    assert "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)" in card
    assert "TextEncoder(Vocabulary.load(" in card
    assert "hf/tokenization_gpt1.py" in made.files
    assert "epochs" not in card
    assert "## Training data" not in card
    assert made.summary["files"] == len(made.files)


@pytest.mark.usefixtures("exported")
def test_the_card_has_what_the_needed_stages_recorded(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "store")
    (tmp_path / "scores.json").write_text(json.dumps({**SCORE.to_dict(), "split": "dev"}))
    scores = {"scores.json": tmp_path / "scores.json"}
    inputs = [store.artifact(stage, f"{stage}0") for stage in ("pretrain", "vocabulary")]
    inputs += [
        publish(store, "ingest", {}, {"books": 61, "words": 1_683_201}),
        publish(store, "clean", {}, {"rejected": {"too_short": 2}, "rules": {"join_lines": 18_211}}),
        publish(store, "split", {}, {"held_out_books": 6}),
        publish(store, "finetune", scores, {}, task="rte", seed=1, variant="full"),
        publish(store, "zero_shot", scores, {}, task="cola"),
    ]
    chosen = {"license": "cc-by-4.0", "language": "en", "register_as": "mine"}
    job = Job(store, "export", "export", "export1", {}, chosen, tuple(filter(None, inputs)), (), Resources(), cluster=False)
    run_cell(job, PrintReporter("export"))
    made = store.artifact("export", "export1")
    assert made is not None
    card = huggingface_hub.ModelCard.load(made.path("hf/README.md"))
    data = card.data
    assert (data.license, data.language, data.library_name, data.pipeline_tag, data.model_name) == (
        "cc-by-4.0", "en", "transformers", "text-generation", "mine",
    )  # fmt: skip
    found = [
        (one.task_type, one.dataset_type, one.dataset_config, one.dataset_split, one.metric_type, one.metric_value)
        for one in data.eval_results or ()
    ]
    assert found == [
        ("text-generation", "books", None, "held_out", "perplexity", 12.5),
        ("text-classification", "nyu-mll/glue", "rte", "validation", "accuracy", 61.25),
        ("text-generation", "nyu-mll/glue", "cola", "validation", "accuracy", 61.25),
    ]
    for row in ("| words read | 1,683,201 |", "| rejected as `too_short` | 2 |", "| books held out | 6 |"):
        assert row in card.content
    assert "`join_lines` 18,211" in card.content


@pytest.mark.parametrize("chosen", [{"license": "CC-BY"}, {"license": "free"}, {"language": "English"}])
def test_what_the_hub_would_refuse_is_refused(chosen: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(chosen))):
        ExportSettings.model_validate(chosen)
