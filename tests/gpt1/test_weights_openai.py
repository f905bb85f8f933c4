"""OpenAI's ten files and transformers' form: equal numbers there and back, or refused."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.report.model_card import model_card
from gpt1.tasks.dataset import InputSpec, SpecialIds, TokenizedExamples, TokenizedTexts, make_batch
from gpt1.tasks.io import Example
from gpt1.tasks.registry import task_named
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpt1.weights.hf import export, find_hf, hf_class, read_hf
from gpt1.weights.openai import array_names, array_shapes, read_openai, write_openai
from gpt1.weights.store import load_model
from tests.conftest import refuses
from tests.conftest import write as write_files
from tests.gpt1 import weight_samples as samples
from tests.gpt1.weight_samples import Damage, edit, plant, remove, write

transformers = pytest.importorskip("transformers")
Capture = pytest.CaptureFixture[str]
DEEP = b"[" * 100_000
WEIGHTS, SHAPES = "model.safetensors", "params_shapes.json"
INDEX = f"{WEIGHTS}.index.json"
IDS = torch.randint(0, 60, (2, 16), generator=torch.Generator().manual_seed(6))


def independent(folder: Path, layers: int, heads: int) -> torch.nn.Module:
    """transformers' model from the files in the order of the arrays, as its conversion of 2018."""
    shapes = json.loads((folder / "params_shapes.json").read_text())
    flat = np.concatenate([np.load(folder / f"params_{n}.npy") for n in range(10)])
    parts = np.split(flat, np.cumsum([np.prod(shape) for shape in shapes]))[:-1]
    arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    (context, width), (vocabulary, _) = shapes[:2]
    shape = {"vocab_size": vocabulary, "n_positions": context, "n_embd": width, "n_layer": layers}
    config = transformers.OpenAIGPTConfig(**shape, n_head=heads)
    theirs = transformers.OpenAIGPTLMHeadModel(config)
    with torch.no_grad():
        for table in (theirs.transformer.positions_embed, theirs.transformer.tokens_embed):
            table.weight.copy_(torch.from_numpy(arrays.pop(0)))
        for block in theirs.transformer.h:
            attn, mlp = block.attn, block.mlp
            for place in (attn.c_attn, attn.c_proj, block.ln_1, mlp.c_fc, mlp.c_proj, block.ln_2):
                place.weight.copy_(torch.from_numpy(arrays.pop(0).squeeze()))
                place.bias.copy_(torch.from_numpy(arrays.pop(0)))
    assert not arrays
    theirs.tie_weights()
    return theirs


@torch.no_grad()
def assert_same_logits(ours: GPT, theirs: torch.nn.Module, ids: torch.Tensor) -> None:
    difference = ours.eval().lm_logits(ours(ids)) - theirs.eval()(ids).logits
    assert float(difference.abs().max()) < 1e-5


@pytest.fixture
def openai(tmp_path: Path) -> Path:
    """A small model of heads of 64 in OpenAI's form, as published: without our config.json."""
    model = samples.model(width=128, heads=2, init_std=0.02)
    write_openai(tmp_path / "openai", model, samples.vocabulary())
    (tmp_path / "openai" / "config.json").unlink()
    return tmp_path / "openai"


def test_names_and_orders_against_an_independent_conversion(openai: Path, tmp_path: Path) -> None:
    ours, vocabulary = read_openai(openai)
    assert_same_logits(ours, independent(openai, 2, 2), IDS)
    written = write_openai(tmp_path / "again", ours, vocabulary)
    published = {file.name: file.read_bytes() for file in written if file.name != "config.json"}
    assert published == {file.name: file.read_bytes() for file in openai.iterdir()}
    tuned = samples.model(special_tokens=3)
    refuses("3 fine-tuning special tokens", write_openai, tmp_path / "again", tuned, vocabulary)


def test_names_and_shapes_are_the_published_ones(shared: Path) -> None:
    shapes = json.loads((shared / "gpt1_bpe" / SHAPES).read_text())
    assert shapes == array_shapes(ModelConfig())
    size = sum(int(np.prod(shape)) for shape in shapes)
    assert (len(shapes), len(array_names(12)), size) == (146, 146, 116_534_784)


def numbers(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Of one of the ten files."""
    return lambda f: np.save(f / "params_4.npy", change(np.load(f / "params_4.npy")))


def other_vocabulary(folder: Path) -> None:
    remove("encoder_bpe_*", "vocab_*")(folder)
    Vocabulary.from_merges(list("abc"), [("a", "b")]).save(folder)


def pickled_array(folder: Path) -> None:
    bomb = np.array([samples.Bomb(folder / "mark")], dtype=object)
    np.save(folder / "params_0.npy", bomb, allow_pickle=True)


def header(count: int) -> bytes:
    """Of an array of so many numbers, without them."""
    about = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + len(about).to_bytes(2, "little") + about.encode()


REFUSED_OPENAI: list[tuple[Damage, str]] = [
    (edit(SHAPES, lambda s: [*s[:8], [1, 128, 500], *s[9:]]), r"8 \(h\.0\.mlp\.c_fc\.w.* 512"),
    (edit(SHAPES, lambda s: [s[1], s[0], *s[2:]]), "another model's vocabulary"),
    (edit(SHAPES, lambda s: s[:-1]), r"25 arrays; expected 2 \+ 12 per layer"),
    (write(SHAPES, b"[[0, -1]]"), "a list of shapes"),
    (write(SHAPES, b"[[1,"), "not JSON"), (write(SHAPES, DEEP), r"shapes\.json: not JSON"),
    (write("config.json", DEEP), r"config\.json: not JSON"),
    (write("config.json", b'{"layers": 1000000}'), "is 2 layers, but .* has 1000000"),
    (write("encoder_bpe_2.json", DEEP), "nested too deeply"),
    (remove(SHAPES), r"params_shapes\.json: no such file"),
    (write("params_4.npy", b"\x93NUMPY"), r"params_4\.npy: not a complete \.npy file"),
    (write("params_4.npy", header(10**13)), r"params_4\.npy: not a complete .*greater than file"),
    (write("params_4.npy", header(10**20)), r"params_4\.npy: not a complete .*too large"),
    (write(SHAPES, f"[[1{'0' * 4000}, 64], [1, 64]]".encode()), "expected at most"),
    (numbers(lambda part: part[:-5]), r"hold [\d,]+ numbers .* expects [\d,]+"),
    (numbers(lambda part: part.astype(np.float64)), r"params_4\.npy: holds float64"),
    (remove("params_7.npy"), r"params_7\.npy: no such file"),
    (other_vocabulary, r"has \d+ tokens; this is another model's vocabulary"),
    (remove("vocab_*"), "and 0 files vocab_"),
    (pickled_array, r"params_0\.npy: not a complete \.npy file of numbers"),
    (plant("params_0.npy"), r"params_0\.npy: not a complete \.npy file of numbers"),
]  # fmt: skip


def test_an_export_is_the_model_in_transformers(tmp_path: Path) -> None:
    model, vocabulary = samples.model(), samples.vocabulary()
    first, second = (export(tmp_path / name, model, vocabulary, "card") for name in "ab")
    assert sorted((tmp_path / "a").iterdir()) == first
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    load = transformers.OpenAIGPTLMHeadModel.from_pretrained
    theirs, info = load(tmp_path / "a", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_logits(model, theirs, IDS)
    assert theirs.lm_head.weight.data_ptr() == theirs.transformer.tokens_embed.weight.data_ptr()
    for found in (theirs.config, theirs.generation_config):
        assert {found.bos_token_id, found.eos_token_id, found.pad_token_id} == {0}


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
    words = samples.vocabulary()
    write_files(tmp_path, {"vocab.json": words.encoder_bytes(), "merges.txt": words.merges_bytes()})
    LAYOUTS[layout](tmp_path)

    ours, vocabulary, heads = read_hf(find_hf(str(tmp_path)))
    assert vocabulary.sha256 == words.sha256
    assert heads == (["score.weight"] if layout == "a classifier" else [])
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


def shard(name: object) -> Damage:
    """The weights in parts, of which an index names this one."""
    index = json.dumps({"weight_map": {"a": name}}).encode()
    return both(remove(WEIGHTS), write(INDEX, index))


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


LM_HEAD = {"lm_head.weight": torch.ones(60, 32)}
REFUSED: list[tuple[Damage, str]] = [
    (config(model_type="gpt2"), "model_type is 'gpt2'"), (config(afn="relu"), "afn is 'relu'"),
    (config(attn_pdrop=0.3), "GPT-1 has a single dropout"),
    (config(vocab_size=40), "vocab_size is 40, the vocabulary next to it has 60 tokens"),
    (write("config.json", b"{"), "not JSON"), (write("config.json", DEEP), "not JSON"),
    (config(n_layer=20_000), "found 26 tensors .* the model's shape has 20,000 layers"),
    (config(n_layer="2"), "layers is '2', expected int"),
    (config(attn_pdrop=[1]), "GPT-1 has a single dropout"),
    (shard(["a"]), "in the same folder"),
    (both(remove(WEIGHTS), write(INDEX, b"[]")), "no `weight_map`"),
    (both(remove(WEIGHTS), write(INDEX, DEEP)), "not JSON"),
    (remove("config.json"), "config.json: no such file"),
    (weights("transformer.h.1.ln_2.bias"), r"'h.1.ln_2.bias': found none, expected shape \[32\]"),
    (weights(x=torch.ones(2)), r"'x': found shape \[2\], expected none"),
    (weights(**LM_HEAD), "lm_head.weight differs"),
    (write(WEIGHTS, b"\x10" * 999), "not a complete safetensors file"),
    (both(remove(WEIGHTS), plant("pytorch_model.bin")), "weights are pytorch_model.bin, a pickle"),
    (remove(WEIGHTS), "no such file"), (plant(WEIGHTS), "not a complete safetensors file"),
    (shard("b.safetensors"), r"b\.safetensors: no such file, and model\.safetensors\.index"),
    (shard("../b.safetensors"), "in the same folder"), (shard("/etc/passwd"), "in the same folder"),
    (remove("vocab*", "enc*"), "no vocabulary"),
    (tokenizer(end_of_word_suffix=None), r"tokenizer\.json: .* words that end in None"),
]


@pytest.mark.parametrize(("damage", "message"), [*REFUSED_OPENAI, *REFUSED])
def test_misfits(damage: Damage, message: str, openai: Path, tmp_path: Path) -> None:
    folder, read = openai, read_openai
    if (damage, message) in REFUSED:
        folder, read = tmp_path / "hf", read_hf
        export(folder, samples.model(), samples.vocabulary(), "card")
    damage(folder)
    assert str(folder) in refuses(message, read, folder)
    assert not (folder / "mark").exists()


OURS: list[tuple[object, str]] = [
    ("{", "'gpt1' in its metadata is not JSON"), (DEEP.decode(), "metadata is not JSON"),
    ("[]", "expected an object"), ({"layers": 20_000}, "26 tensors .* has 20,000 layers"),
    ({"width": 2 * 10**9}, "and 96,.* parameters"),
    ({"width": 10**4000}, "width is 1000.*, expected at most 2147483647"),
    ({"heads": "4"}, "heads is '4', expected"),
    ({"dropout": None}, "dropout is None, expected float"), ({"x": 1}, r"unknown keys \['x'\]"),
]


@pytest.mark.parametrize(("change", "message"), OURS)
def test_a_shape_that_no_model_has_is_refused_before_one_is_built(
    change: object, message: str, tmp_path: Path
) -> None:
    model = samples.model()
    text = json.dumps({**model.config.to_dict(), **change}) if isinstance(change, dict) else change
    save_file(model.state_dict(), tmp_path / WEIGHTS, metadata={"gpt1": str(text)})
    assert str(tmp_path) in refuses(message, load_model, tmp_path)


def test_no_name_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("somebody/some-model-that-is-not-here", "not/a/name/at/all"):
        refuses("neither a folder nor a model in the hub's local", find_hf, name)


PAIR = Example("1", ("the cat ate it.", "it ate."))
TASKS = {
    "sst2": Example("1", ("the cat ate it.",)), "mnli": PAIR, "mrpc": PAIR, "stsb": PAIR,
    "race": Example("1", ("the cat", "ate?"), ("it.", "the dog", "not", "a")),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_head_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    tuned, vocabulary = samples.tuned(task_named(name)), samples.vocabulary()
    encode = Tokenizer(vocabulary).encode
    hf, ours = tmp_path / "hf", tmp_path / "ours"
    export(hf, tuned.model.gpt, vocabulary, "card", tuned)
    form = InputSpec(tuned.task.kind, SpecialIds.after(vocabulary.size), 16)
    encoded = TokenizedExamples([TASKS[name]], TokenizedTexts.of([TASKS[name]], encode), form)
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
    examples = [TASKS[name], replace(TASKS[name], id="2", texts=TASKS[name].texts[::-1])]
    for folder in (hf, ours):
        loaded = load_checkpoint(str(folder)).tuned
        assert loaded is not None
        assert loaded.predict(examples, encode) == tuned.predict(examples, encode)
        assert loaded.facts() == tuned.facts()


def test_examples_of_another_kind_and_a_head_of_another_model_are_refused(tmp_path: Path) -> None:
    vocabulary, mnli = samples.vocabulary(), samples.tuned(task_named("mnli"))
    given = ([PAIR, Example("2", ("a",))], Tokenizer(vocabulary).encode)
    refuses("mnli, example 2: 1 texts, expected 2", mnli.predict, *given)
    save_checkpoint(tmp_path, Checkpoint(mnli.model.gpt, vocabulary, mnli))
    facts = json.loads((tmp_path / "head.json").read_text())
    fits = "does not fit the model next to it"
    other = ({"labels": ["a", "b"]}, r"head\.safetensors: not the head of mnli")
    module = ({"task": "idlelib.help"}, "'idlelib.help' without its definition")
    odd = ({"definition": {"kind": "all", "choices": "4"}}, "kind 'all' with '4' choices")
    wrong = [({name: value}, fits) for name, value in
             (("max_length", 99), ("max_length", 9.5), ("regression", 3))]  # fmt: skip
    for change, message in (other, module, odd, *wrong):
        (tmp_path / "head.json").write_text(json.dumps({**facts, **change}))
        refuses(message, load_checkpoint, tmp_path)
    assert "idlelib.help" not in sys.modules


@pytest.mark.usefixtures("code_of_exports")
@pytest.mark.parametrize("name", ["language model", "demo_reverse", *TASKS])
def test_the_code_of_the_card_runs(name: str, tmp_path: Path, capsys: Capture) -> None:
    tuned = None if name == "language model" else samples.tuned(task_named(name), context=64)
    model = tuned.model.gpt if tuned else samples.model(context=64)
    card = model_card(model.config, samples.vocabulary(), (), tuned)
    export(tmp_path, model, samples.vocabulary(), card, tuned)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec("\n".join(blocks).replace("PATH_OF_THIS_FOLDER", str(tmp_path)), {})
    assert capsys.readouterr().out.strip()
