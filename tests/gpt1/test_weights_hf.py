"""transformers' form: round trips, task heads in its own classes, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt1.errors import UserError
from gpt1.report.model_card import model_card
from gpt1.tasks.encoded import EncodedExamples, Form, make_batch
from gpt1.tasks.example import Example
from gpt1.tasks.finetuned import FineTuned
from gpt1.tasks.pieces import encode_pieces
from gpt1.tasks.table import task_named
from gpt1.tasks.transforms import SpecialIds
from gpt1.text.encoder import TextEncoder
from gpt1.train.portable import initial_state, write_portable
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpt1.weights.hf import export, hf_class
from gpt1.weights.hf_import import TRANSPOSED, dropped_heads, find_hf, read_hf
from gpt1.weights.openai import write_openai
from gpt1.weights.store import save_model
from tests.gpt1 import weight_samples as samples
from tests.gpt1.test_weights_openai import Bomb

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported model."""
    made = tmp_path / "hf"
    export(made, samples.model(), samples.vocabulary(), "card")
    return made


@pytest.mark.parametrize("shape", [{}, {"embedding_dropout": "matrix", "dropout": 0.0, "init_std": 0.05}])
def test_ours_to_hf_to_ours_is_byte_identical(shape: dict[str, float | str], tmp_path: Path) -> None:
    model, vocabulary = samples.model(**shape), samples.vocabulary()
    first = save_checkpoint(tmp_path / "first", Checkpoint(model, vocabulary))
    export(tmp_path / "hf", model, vocabulary, "card")
    second = save_checkpoint(tmp_path / "second", Checkpoint(*read_hf(tmp_path / "hf")))
    assert [file.name for file in first] == [file.name for file in second]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_what_transformers_saves_comes_in_and_goes_out_as_it_was(tmp_path: Path) -> None:
    """A folder written by transformers itself, with its names for the vocabulary."""
    config = transformers.OpenAIGPTConfig(vocab_size=samples.vocabulary().size, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    theirs = transformers.OpenAIGPTLMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_bytes(samples.vocabulary().encoder_bytes())
    (tmp_path / "merges.txt").write_bytes(samples.vocabulary().merges_bytes())
    ours, vocabulary = read_hf(find_hf(str(tmp_path)))
    ids = torch.tensor([TextEncoder(vocabulary).encode("the mouse ate the lot, then the cat ate it.")[:16]])
    with torch.no_grad():
        assert float((ours.eval().lm_logits(ours(ids)) - theirs(ids).logits).abs().max()) < 1e-5
    export(tmp_path / "out", ours, vocabulary, "card")
    before, after = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() - {"lm_head.weight"} == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in after)


def saved_by_transformers(folder: Path, kind: str = "OpenAIGPTLMHeadModel", **options: object) -> dict[str, torch.Tensor]:
    """A folder that transformers wrote, with the vocabulary in tokenizer.json alone; the weights under our names."""
    config = transformers.OpenAIGPTConfig(vocab_size=samples.vocabulary().size, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    theirs = getattr(transformers, kind)(config)
    theirs.save_pretrained(folder, **options)
    tokenizer = samples.vocabulary().tokenizer_bytes()
    assert tokenizer is not None
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return {name.removeprefix("transformer."): tensor for name, tensor in theirs.state_dict().items()}


@pytest.mark.parametrize("joined", [False, True])
def test_a_vocabulary_inside_tokenizer_json_is_taken(joined: bool, tmp_path: Path) -> None:
    """Its merges are pairs, or in older files strings."""
    saved_by_transformers(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_bytes())
    if joined:
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert read_hf(tmp_path)[1].sha256 == samples.vocabulary().sha256
    document["model"]["end_of_word_suffix"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"tokenizer\.json: found BPE with words that end in None"):
        read_hf(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        read_hf(tmp_path)


def test_sharded_weights_are_read_by_their_index(tmp_path: Path) -> None:
    theirs = saved_by_transformers(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    for name, tensor in read_hf(tmp_path)[0].state_dict().items():
        assert torch.equal(tensor, theirs[name].t() if name.endswith(TRANSPOSED) else theirs[name]), name
    shards[1].rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{shards[1].name}: no such file, and model.safetensors.index.json names it"):
        read_hf(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for wrong in ("../elsewhere", "/etc/passwd", "model.bin"):
        index.write_text(json.dumps({"weight_map": {"a": wrong}}))
        with pytest.raises(UserError, match="expected safetensors files in the same folder"):
            read_hf(tmp_path)


def test_the_head_of_a_classifier_is_left_out_and_named(tmp_path: Path) -> None:
    theirs = saved_by_transformers(tmp_path, "OpenAIGPTForSequenceClassification")
    assert torch.equal(read_hf(tmp_path)[0].tokens_embed.weight, theirs["tokens_embed.weight"])
    assert dropped_heads(tmp_path) == ["score.weight"]


def test_old_names_masks_and_an_equal_head_are_taken(folder: Path) -> None:
    """The hub's file has no prefix, the causal masks as tensors, and the softmax a second time."""
    found = load_file(folder / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in found.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "h.1.attn.bias": torch.ones(1, 1, 16, 16)}
    old["lm_head.weight"] = found["transformer.tokens_embed.weight"].clone()
    save_file(old, folder / "model.safetensors")
    ours, _ = read_hf(folder)
    expected = samples.model().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder: Path, drop: str = "", **tensors: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file({**{name: t for name, t in load_file(path).items() if name != drop}, **tensors}, path)


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


REFUSED = {
    "another model": (lambda f: change_config(f, model_type="gpt2"), "model_type is 'gpt2', expected 'openai-gpt'"),
    "another activation": (lambda f: change_config(f, afn="relu"), "afn is 'relu'"),
    "three dropouts": (lambda f: change_config(f, attn_pdrop=0.3), "GPT-1 has one dropout"),
    "fewer rows": (lambda f: change_config(f, vocab_size=40), "vocab_size is 40, the vocabulary beside it has 60 tokens"),
    "wrong shape": (
        lambda f: change_config(f, n_positions=32),
        r"'positions_embed.weight': found shape \[16, 32\], expected shape \[32, 32\]",
    ),
    "a tensor missing": (
        lambda f: change_weights(f, "transformer.h.1.ln_2.bias"),
        r"'h.1.ln_2.bias': found none, expected shape \[32\]",
    ),
    "a tensor too many": (lambda f: change_weights(f, extra=torch.ones(2)), r"'extra': found shape \[2\], expected none"),
    "an untied head": (lambda f: change_weights(f, **{"lm_head.weight": torch.ones(60, 32)}), "lm_head.weight differs"),
    "truncated": (lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 999), "not a whole safetensors file"),
    "only a pickle": (only_a_pickle, "only as pytorch_model.bin, a pickle"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no such file"),
    "no vocabulary": (lambda f: [file.unlink() for file in (*f.glob("vocab*"), *f.glob("enc*"))], "no vocabulary"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named_and_refused(case: str, folder: Path) -> None:
    damage, message = REFUSED[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_hf(folder)
    assert str(folder) in str(caught.value)


def test_a_name_that_is_not_here_is_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="neither a folder nor a model in the hub's local cache"):
        find_hf("somebody/some-model-that-is-not-here")
    with pytest.raises(UserError, match="neither a folder nor a model"):
        find_hf("not/a/name/at all")


def test_a_planted_pickle_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="a pickle"):
        load_checkpoint(folder)
    assert not mark.exists()


TASKS = {
    "classification": Example("1", ("the cat ate it.",)),
    "entailment": Example("1", ("the cat ate it.", "it ate.")),
    "similarity": Example("1", ("the cat ate it.", "it ate.")),
    "regression": Example("1", ("the cat ate.", "it ate it.")),
    "choice": Example("1", ("the cat", "ate?"), ("it.", "the dog", "not", "a")),
}
NAMES = {"classification": "sst2", "entailment": "mnli", "similarity": "mrpc", "regression": "stsb", "choice": "race"}


def ours_and_theirs(tuned: FineTuned, example: Example, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The head's outputs here and by the class of transformers, read as the card says."""
    export(folder, tuned.model.gpt, samples.vocabulary(), "card", tuned)
    form = Form(tuned.task.kind, SpecialIds.after(samples.vocabulary().size), 16)
    encoded = EncodedExamples([example], encode_pieces([example], TextEncoder(samples.vocabulary()).encode), form)
    ids, lengths, _ = make_batch(encoded, False)
    found = getattr(transformers, hf_class(tuned)).from_pretrained(folder).eval()
    with torch.no_grad():
        ours = tuned.model.outputs(ids, lengths)
        if tuned.task.kind == "choice":
            return ours, found(ids[None], mc_token_ids=(lengths - 1)[None]).mc_logits
        return ours, found(ids).logits.sum(0, keepdim=True) + torch.tensor(found.config.head_bias)


@pytest.mark.parametrize("kind", TASKS)
def test_task_heads_in_transformers_classes(kind: str, tmp_path: Path) -> None:
    ours, theirs = ours_and_theirs(samples.tuned(task_named(NAMES[kind])), TASKS[kind], tmp_path)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 1e-5


@pytest.mark.parametrize("form", ["ours", "hf"])
@pytest.mark.parametrize("kind", TASKS)
def test_a_fine_tuned_folder_predicts_what_the_model_did(kind: str, form: str, tmp_path: Path) -> None:
    tuned, vocabulary = samples.tuned(task_named(NAMES[kind])), samples.vocabulary()
    if form == "ours":
        save_checkpoint(tmp_path, Checkpoint(tuned.model.gpt, vocabulary, tuned))
    else:
        export(tmp_path, tuned.model.gpt, vocabulary, "card", tuned)
    loaded = load_checkpoint(tmp_path)
    assert loaded.tuned is not None
    encode = TextEncoder(vocabulary).encode
    examples = [TASKS[kind], replace(TASKS[kind], id="2", texts=tuple(reversed(TASKS[kind].texts)))]
    assert loaded.tuned.predict(examples, encode) == tuned.predict(examples, encode)
    assert loaded.tuned.facts() == tuned.facts()


def test_examples_of_another_kind_are_refused() -> None:
    tuned = samples.tuned(task_named("rte"))
    with pytest.raises(UserError, match="rte, example 2: 1 texts, expected 2"):
        tuned.predict([Example("1", ("a", "b")), Example("2", ("a",))], TextEncoder(samples.vocabulary()).encode)
    with pytest.raises(UserError, match="race, example 1: 0 answers, expected 4"):
        samples.tuned(task_named("race")).predict([Example("1", ("a", "b"))], TextEncoder(samples.vocabulary()).encode)


def test_a_head_of_another_model_is_refused(tmp_path: Path) -> None:
    tuned = samples.tuned(task_named("mnli"))
    save_checkpoint(tmp_path, Checkpoint(tuned.model.gpt, samples.vocabulary(), tuned))
    facts = json.loads((tmp_path / "head.json").read_text())
    (tmp_path / "head.json").write_text(json.dumps({**facts, "labels": ["a", "b"]}))
    with pytest.raises(UserError, match=r"head\.safetensors: not the head of mnli"):
        load_checkpoint(tmp_path)
    (tmp_path / "head.json").write_text(json.dumps({**facts, "max_length": 99}))
    with pytest.raises(UserError, match="does not fit the model beside it"):
        load_checkpoint(tmp_path)


@pytest.mark.usefixtures("code_of_exports")
@pytest.mark.parametrize("kind", ["language model", *TASKS])
def test_the_code_of_the_card_runs(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tuned = samples.model(context=64), None
    if kind in NAMES:
        tuned = samples.tuned(task_named(NAMES[kind]), context=64)
        model = tuned.model.gpt
    card = model_card(model.config, samples.vocabulary(), (), tuned)
    export(tmp_path, model, samples.vocabulary(), card, tuned)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec("\n".join(blocks).replace("PATH_OF_THIS_FOLDER", str(tmp_path)), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_mode_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    tuned, vocabulary = samples.tuned(task_named("rte")), samples.vocabulary()
    before = os.umask(umask)
    try:
        for _ in range(2):  # the second time over what is there
            files = export(tmp_path / "hf", tuned.model.gpt, vocabulary, "card", tuned)
            files += save_checkpoint(tmp_path / "ours", Checkpoint(tuned.model.gpt, vocabulary, tuned))
            files += write_openai(tmp_path / "openai", samples.model(), vocabulary)
            files += [
                save_model(tmp_path / "snapshots" / "step-00000010.safetensors", samples.model()),
                write_portable(tmp_path / "portable.safetensors", initial_state(samples.model().state_dict())),
            ]
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~umask}
            for file in tmp_path.rglob("*.safetensors"):
                file.chmod(0o600)
    finally:
        os.umask(before)
