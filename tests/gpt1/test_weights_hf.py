"""transformers' form: equal numbers there and back, task heads in its classes, or refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt1.errors import UserError
from gpt1.report.model_card import model_card
from gpt1.tasks.encoded import EncodedExamples, Form, make_batch
from gpt1.tasks.example import Example
from gpt1.tasks.pieces import encode_pieces
from gpt1.tasks.table import task_named
from gpt1.tasks.transforms import SpecialIds
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpt1.weights.hf import export, hf_class
from gpt1.weights.hf_import import dropped_heads, find_hf, read_hf
from gpt1.weights.openai import read_openai, write_openai
from tests.gpt1 import weight_samples as samples
from tests.gpt1.weight_samples import Damage, edit, plant, remove, write

transformers = pytest.importorskip("transformers")
WEIGHTS = "model.safetensors"
IDS = torch.randint(0, 60, (2, 16), generator=torch.Generator().manual_seed(6))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported model."""
    export(tmp_path / "hf", samples.model(), samples.vocabulary(), "card")
    return tmp_path / "hf"


def test_an_export_is_the_model_in_transformers(
    tmp_path: Path,
) -> None:
    model, vocabulary = samples.model(), samples.vocabulary()
    first, second = (export(tmp_path / name, model, vocabulary, "card") for name in "ab")
    assert sorted((tmp_path / "a").iterdir()) == first
    assert len({file.stat().st_mode for file in first}) == 1  # as the umask says
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert Vocabulary.load(tmp_path / "a").sha256 == vocabulary.sha256
    theirs, info = transformers.OpenAIGPTLMHeadModel.from_pretrained(
        tmp_path / "a", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        difference = model.lm_logits(model(IDS)) - theirs.eval()(IDS).logits
    assert float(difference.abs().max()) < 1e-5
    assert theirs.lm_head.weight.data_ptr() == theirs.transformer.tokens_embed.weight.data_ptr()
    for found in (theirs.config, theirs.generation_config):
        assert {found.bos_token_id, found.eos_token_id, found.pad_token_id} == {0}
    assert "max_length" not in (tmp_path / "a" / "generation_config.json").read_text()


@pytest.mark.parametrize("form", ["hf", "openai"])
@pytest.mark.parametrize("shape", [{}, {"embedding_dropout": "matrix", "dropout": 0.0}])
def test_there_and_back_is_byte_identical(shape: dict[str, Any], form: str, tmp_path: Path) -> None:
    model, vocabulary = samples.model(init_std=0.05, **shape), samples.vocabulary()
    first = save_checkpoint(tmp_path / "first", Checkpoint(model, vocabulary))
    if form == "hf":
        export(tmp_path / "there", model, vocabulary, "card")
    else:
        write_openai(tmp_path / "there", model, vocabulary)
    back = (read_hf if form == "hf" else read_openai)(tmp_path / "there")
    second = save_checkpoint(tmp_path / "second", Checkpoint(*back))
    assert [file.name for file in first] == [file.name for file in second]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def tokenizer(**changes: object) -> Damage:
    """The vocabulary in tokenizer.json alone, with these changes."""

    def change(folder: Path) -> None:
        remove("encoder_bpe_*", "vocab*", "merges*")(folder)
        (folder / "tokenizer.json").write_bytes(samples.vocabulary().tokenizer_bytes() or b"")
        edit("tokenizer.json", lambda all: {**all, "model": {**all["model"], **changes}})(folder)

    return change


def rewrite_as_in_2018(folder: Path) -> None:
    """The hub's file: no prefix, the causal masks as tensors, and the softmax a second time."""
    found = load_file(folder / WEIGHTS)
    old = {name.removeprefix("transformer."): tensor for name, tensor in found.items()}
    old |= {f"h.{n}.attn.bias": torch.ones(1, 1, 16, 16) for n in range(2)}
    old["lm_head.weight"] = found["transformer.tokens_embed.weight"].clone()
    save_file(old, folder / WEIGHTS)


LAYOUTS: dict[str, Damage] = {
    "vocab.json and merges.txt": lambda _: None, "tokenizer.json": tokenizer(),
    "tokenizer.json, merges as strings": tokenizer(merges=["t h", "th e</w>"]),
    "sharded": lambda _: None, "a classifier": lambda _: None, "2018": rewrite_as_in_2018,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_transformers_comes_in_and_goes_out(layout: str, tmp_path: Path) -> None:
    shape = {"vocab_size": 60, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    head = "ForSequenceClassification" if layout == "a classifier" else "LMHeadModel"
    theirs = getattr(transformers, f"OpenAIGPT{head}")(transformers.OpenAIGPTConfig(**shape)).eval()
    theirs.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if layout == "sharded" else {}))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (layout == "sharded")
    (tmp_path / "vocab.json").write_bytes(samples.vocabulary().encoder_bytes())
    (tmp_path / "merges.txt").write_bytes(samples.vocabulary().merges_bytes())
    LAYOUTS[layout](tmp_path)

    ours, vocabulary = read_hf(find_hf(str(tmp_path)))
    assert vocabulary.sha256 == samples.vocabulary().sha256
    assert dropped_heads(tmp_path) == (["score.weight"] if layout == "a classifier" else [])
    with torch.no_grad():
        difference = ours.eval()(IDS) - theirs.transformer(IDS).last_hidden_state
    assert float(difference.abs().max()) < 1e-5
    export(tmp_path / "out", ours, vocabulary, "card")
    after = load_file(tmp_path / "out" / WEIGHTS)
    before = {f"transformer.{name}": one for name, one in theirs.transformer.state_dict().items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in after)


def config(**values: object) -> Damage:
    return edit("config.json", lambda all: {**all, **values})


def weights(drop: str = "", **tensors: torch.Tensor) -> Damage:
    def change(folder: Path) -> None:
        kept = load_file(folder / WEIGHTS)
        kept.pop(drop, None)
        save_file({**kept, **tensors}, folder / WEIGHTS)

    return change


def shard(name: str) -> Damage:
    """The weights in parts, of which an index names this one."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        content = json.dumps({"weight_map": {"a": name}})
        (folder / "model.safetensors.index.json").write_text(content)

    return change


def only_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    plant("pytorch_model.bin")(folder)


LM_HEAD = {"lm_head.weight": torch.ones(60, 32)}
REFUSED: list[tuple[Damage, str]] = [
    (config(model_type="gpt2"), "model_type is 'gpt2', expected 'openai-gpt'"),
    (config(afn="relu"), "afn is 'relu'"), (config(attn_pdrop=0.3), "GPT-1 has one dropout"),
    (config(vocab_size=40), "vocab_size is 40, the vocabulary beside it has 60 tokens"),
    (config(n_embd="wide"), r"config\.json: a size is no number"),
    (config(n_positions=32), r"'positions_embed.weight': found shape \[16, 32\], .* \[32, 32\]"),
    (write("config.json", b"{"), "not JSON"), (remove("config.json"), "config.json: no such file"),
    (weights("transformer.h.1.ln_2.bias"), r"'h.1.ln_2.bias': found none, expected shape \[32\]"),
    (weights(x=torch.ones(2)), r"'x': found shape \[2\], expected none"),
    (weights(**LM_HEAD), "lm_head.weight differs"),
    (write(WEIGHTS, b"\x10" * 999), "not a whole safetensors file"),
    (plant(WEIGHTS), "not a whole safetensors file"),
    (only_a_pickle, "only as pytorch_model.bin, a pickle"), (remove(WEIGHTS), "no such file"),
    (shard("b.safetensors"), r"b\.safetensors: no such file, and model\.safetensors\.index"),
    (shard("../b.safetensors"), "expected safetensors files in the same folder"),
    (shard("/etc/passwd"), "expected safetensors files in the same folder"),
    (shard("model.bin"), "expected safetensors files in the same folder"),
    (remove("vocab*", "enc*"), "no vocabulary"),
    (tokenizer(end_of_word_suffix=None), r"tokenizer\.json: .* words that end in None"),
    (tokenizer(merges=3), r"tokenizer\.json: not a tokenizer"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSED)
def test_what_does_not_fit_is_refused(damage: Damage, message: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_hf(folder)
    assert str(folder) in str(caught.value)
    assert not (folder / "mark").exists()


@pytest.mark.parametrize("name", ["somebody/some-model-that-is-not-here", "not/a/name/at/all"])
def test_no_name_is_fetched(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="neither a folder nor a model in the hub's local cache"):
        find_hf(name)


PAIR = Example("1", ("the cat ate it.", "it ate."))
TASKS = {
    "sst2": Example("1", ("the cat ate it.",)), "mnli": PAIR, "mrpc": PAIR, "stsb": PAIR,
    "race": Example("1", ("the cat", "ate?"), ("it.", "the dog", "not", "a")),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_head_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    tuned, vocabulary = samples.tuned(task_named(name)), samples.vocabulary()
    encode = TextEncoder(vocabulary).encode
    hf, ours = tmp_path / "hf", tmp_path / "ours"
    export(hf, tuned.model.gpt, vocabulary, "card", tuned)
    form = Form(tuned.task.kind, SpecialIds.after(vocabulary.size), 16)
    encoded = EncodedExamples([TASKS[name]], encode_pieces([TASKS[name]], encode), form)
    ids, lengths, _ = make_batch(encoded, False)
    theirs = getattr(transformers, hf_class(tuned)).from_pretrained(hf).eval()  # as the card says
    with torch.no_grad():
        outputs = tuned.model.outputs(ids, lengths)
        if tuned.task.kind == "choice":
            found = theirs(ids[None], mc_token_ids=(lengths - 1)[None]).mc_logits
        else:
            logits = theirs(ids).logits.sum(0, keepdim=True)
            found = logits + torch.tensor(theirs.config.head_bias)
    assert outputs.shape == found.shape
    assert float((outputs - found).abs().max()) < 1e-5

    save_checkpoint(ours, Checkpoint(tuned.model.gpt, vocabulary, tuned))
    again = replace(TASKS[name], id="2", texts=tuple(reversed(TASKS[name].texts)))
    for folder in (hf, ours):
        loaded = load_checkpoint(folder).tuned
        assert loaded is not None
        examples = [TASKS[name], again]
        assert loaded.predict(examples, encode) == tuned.predict(examples, encode)
        assert loaded.facts() == tuned.facts()


def test_examples_of_another_kind_and_a_head_of_another_model_are_refused(tmp_path: Path) -> None:
    vocabulary, mnli = samples.vocabulary(), samples.tuned(task_named("mnli"))
    encode = TextEncoder(vocabulary).encode
    with pytest.raises(UserError, match="mnli, example 2: 1 texts, expected 2"):
        mnli.predict([PAIR, Example("2", ("a",))], encode)
    with pytest.raises(UserError, match="race, example 1: 0 answers, expected 4"):
        samples.tuned(task_named("race")).predict([PAIR], encode)
    save_checkpoint(tmp_path, Checkpoint(mnli.model.gpt, vocabulary, mnli))
    facts = json.loads((tmp_path / "head.json").read_text())
    for change, message in (
        ({"labels": ["a", "b"]}, r"head\.safetensors: not the head of mnli"),
        ({"max_length": 99}, "does not fit the model beside it"),
        ({"regression": 3}, "does not fit the model beside it"),
    ):
        (tmp_path / "head.json").write_text(json.dumps({**facts, **change}))
        with pytest.raises(UserError, match=message):
            load_checkpoint(tmp_path)


@pytest.mark.usefixtures("code_of_exports")
@pytest.mark.parametrize("name", ["language model", *TASKS])
def test_the_code_of_the_card_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = samples.tuned(task_named(name), context=64) if name in TASKS else None
    model = tuned.model.gpt if tuned else samples.model(context=64)
    card = model_card(model.config, samples.vocabulary(), (), tuned)
    export(tmp_path, model, samples.vocabulary(), card, tuned)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec("\n".join(blocks).replace("PATH_OF_THIS_FOLDER", str(tmp_path)), {})
    assert capsys.readouterr().out.strip()
