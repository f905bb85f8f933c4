"""The export stage: its folder is what transformers reads, and gives the model's own logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.store import save_model
from pipeline.context import Job, StageContext, run_cell
from pipeline.events import PrintReporter
from pipeline.store import Store
from stages.contract import Artifact, Resources

transformers = pytest.importorskip("transformers")
VOCABULARY = Vocabulary.from_merges(list("abcdeht"), [("t", "h"), ("th", "e</w>")])


def publish(store: Store, stage: str, files: dict[str, Path], summary: dict[str, object]) -> Artifact:
    """A published artifact of `stage` with copies of these files."""
    job = Job(store, stage, stage, f"{stage}0", {}, {}, (), (), Resources(), cluster=False)
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


def test_the_card_tells_how_well_it_reads_and_how_to_get_the_right_ids(exported: tuple[GPT, Artifact]) -> None:
    _, made = exported
    card = made.path("hf/README.md").read_text()
    assert "| held-out perplexity | 12.50 |" in card
    assert "| updates | 1,000 |" in card
    assert "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)" in card
    assert "TextEncoder(Vocabulary.load(" in card
    assert "hf/tokenization_gpt1.py" in made.files
    assert "epochs" not in card
    assert made.summary["files"] == len(made.files)
