"""OpenAI's ten files: names and orders proved against an independent conversion, round trips byte for byte, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.checkpoint import Checkpoint, save_checkpoint
from gpt1.weights.openai import array_names, array_shapes, read_openai, write_openai
from tests.gpt1 import weight_samples as samples

transformers = pytest.importorskip("transformers")


def independent(folder: Path, layers: int, heads: int) -> torch.nn.Module:
    """transformers' model from the files, as its own conversion of 2018 did: in the order of the arrays, without our names."""
    shapes = json.loads((folder / "params_shapes.json").read_text())
    flat = np.concatenate([np.load(folder / f"params_{n}.npy") for n in range(10)])
    parts = np.split(flat, np.cumsum([np.prod(shape) for shape in shapes]))[:-1]
    arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    (context, width), (vocabulary, _) = shapes[:2]
    config = transformers.OpenAIGPTConfig(vocab_size=vocabulary, n_positions=context, n_embd=width, n_layer=layers, n_head=heads)
    theirs = transformers.OpenAIGPTLMHeadModel(config).eval()
    with torch.no_grad():
        theirs.transformer.positions_embed.weight.copy_(torch.from_numpy(arrays.pop(0)))
        theirs.transformer.tokens_embed.weight.copy_(torch.from_numpy(arrays.pop(0)))
        for block in theirs.transformer.h:
            places = (block.attn.c_attn, block.attn.c_proj, block.ln_1, block.mlp.c_fc, block.mlp.c_proj, block.ln_2)
            for place in places:
                place.weight.copy_(torch.from_numpy(arrays.pop(0).squeeze()))
                place.bias.copy_(torch.from_numpy(arrays.pop(0)))
    assert not arrays
    theirs.tie_weights()
    return theirs


def largest_difference(ours: torch.nn.Module, theirs: torch.nn.Module, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return float((ours.lm_logits(ours(ids)) - theirs(ids).logits).abs().max())  # type: ignore[operator]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model of heads of 64 in OpenAI's form, as published: without our config.json."""
    made = tmp_path / "openai"
    write_openai(made, samples.model(width=128, heads=2, dropout=0.1, init_std=0.02), samples.vocabulary())
    (made / "config.json").unlink()
    return made


def test_names_and_orders_against_an_independent_conversion(folder: Path) -> None:
    ours, _ = read_openai(folder)
    ids = torch.randint(0, ours.config.vocabulary, (3, 16), generator=torch.Generator().manual_seed(1))
    assert largest_difference(ours.eval(), independent(folder, 2, 2), ids) < 1e-5


@pytest.mark.slow
def test_ten_files_in_the_published_shapes(shared: Path, tmp_path: Path) -> None:
    """146 arrays, 116,534,784 numbers, random: as OpenAI's, but for the values."""
    for name in ("params_shapes.json", "encoder_bpe_40000.json", "vocab_40000.bpe"):
        shutil.copy(shared / "gpt1_bpe" / name, tmp_path / name)
    shapes = json.loads((tmp_path / "params_shapes.json").read_text())
    assert shapes == array_shapes(ModelConfig())
    assert len(shapes) == len(array_names(12)) == 146
    sizes = [int(np.prod(shape)) for shape in shapes]
    assert sum(sizes) == 116_534_784
    flat = np.random.default_rng(3).normal(0, 0.05, sum(sizes)).astype(np.float32)
    for number, part in enumerate(np.split(flat, np.sort(np.random.default_rng(4).integers(0, len(flat), 9)))):
        np.save(tmp_path / f"params_{number}.npy", part)  # cut anywhere: only the concatenation counts
    ours, vocabulary = read_openai(tmp_path)
    assert ours.config == ModelConfig()
    text = "It wasn't the first time; the sea, he said, is never the same twice.\nShe looked at him."
    ids = torch.tensor([TextEncoder(vocabulary).encode(text)])
    assert largest_difference(ours.eval(), independent(tmp_path, 12, 12), ids) < 1e-5


def test_ours_to_openai_to_ours_is_byte_identical(tmp_path: Path) -> None:
    model, vocabulary = samples.model(dropout=0.0, embedding_dropout="matrix"), samples.vocabulary()
    first = save_checkpoint(tmp_path / "first", Checkpoint(model, vocabulary))
    write_openai(tmp_path / "openai", model, vocabulary)
    second = save_checkpoint(tmp_path / "second", Checkpoint(*read_openai(tmp_path / "openai")))
    assert [file.name for file in first] == [file.name for file in second]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_openai_to_ours_to_openai_is_byte_identical(folder: Path, tmp_path: Path) -> None:
    written = write_openai(tmp_path / "again", *read_openai(folder))
    assert [file.name for file in written if not (folder / file.name).exists()] == ["config.json"]
    assert all(file.read_bytes() == (folder / file.name).read_bytes() for file in written if file.name != "config.json")


def damage_shape(folder: Path) -> None:
    shapes = json.loads((folder / "params_shapes.json").read_text())
    shapes[8] = [1, 128, 500]
    (folder / "params_shapes.json").write_text(json.dumps(shapes))


def swap_positions_and_tokens(folder: Path) -> None:
    shapes = json.loads((folder / "params_shapes.json").read_text())
    (folder / "params_shapes.json").write_text(json.dumps([shapes[1], shapes[0], *shapes[2:]]))


def drop_array(folder: Path) -> None:
    shapes = json.loads((folder / "params_shapes.json").read_text())
    (folder / "params_shapes.json").write_text(json.dumps(shapes[:-1]))


def truncate(folder: Path) -> None:
    path = folder / "params_4.npy"
    path.write_bytes(path.read_bytes()[:-100])


def shorten(folder: Path) -> None:
    np.save(folder / "params_4.npy", np.load(folder / "params_4.npy")[:-5])


def doubles(folder: Path) -> None:
    np.save(folder / "params_4.npy", np.load(folder / "params_4.npy").astype(np.float64))


def other_vocabulary(folder: Path) -> None:
    for file in (*folder.glob("encoder_bpe_*"), *folder.glob("vocab_*")):
        file.unlink()
    Vocabulary.from_merges(list("abc"), [("a", "b")]).save(folder)


REFUSED = {
    "wrong shape": (damage_shape, r"array 8 \(h\.0\.mlp\.c_fc\.weight\) has shape \[1, 128, 500\], expected \[1, 128, 512\]"),
    "tokens first": (swap_positions_and_tokens, "this is another model's vocabulary"),
    "array missing": (drop_array, r"25 arrays; expected 2 \+ 12 a layer .* an array is missing"),
    "truncated": (truncate, r"params_4\.npy: not a whole \.npy file"),
    "numbers missing": (shorten, r"hold [\d,]+ numbers .* asks for [\d,]+"),
    "file missing": (lambda folder: (folder / "params_7.npy").unlink(), r"params_7\.npy: no such file"),
    "shapes missing": (lambda folder: (folder / "params_shapes.json").unlink(), r"params_shapes\.json: no such file"),
    "shapes no JSON": (lambda folder: (folder / "params_shapes.json").write_text("[[1,"), "not JSON"),
    "shapes no shapes": (lambda folder: (folder / "params_shapes.json").write_text("[[0, -1]]"), "a list of shapes"),
    "other numbers": (doubles, "holds float64"),
    "other vocabulary": (other_vocabulary, r"has \d+ tokens; this is another model's vocabulary"),
    "no vocabulary": (lambda folder: next(folder.glob("vocab_*")).unlink(), "and 0 files vocab_"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named_and_refused(case: str, folder: Path) -> None:
    damage, message = REFUSED[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_openai(folder)
    assert str(folder) in str(caught.value)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("form", ["object array", "bare pickle"])
def test_a_planted_pickle_is_not_loaded(form: str, folder: Path, tmp_path: Path) -> None:
    bomb, mark = Bomb(tmp_path / "mark"), tmp_path / "mark"
    if form == "object array":
        np.save(folder / "params_0.npy", np.array([bomb], dtype=object), allow_pickle=True)
    else:
        (folder / "params_0.npy").write_bytes(pickle.dumps(bomb))
    with pytest.raises(UserError, match=r"params_0\.npy: not a whole \.npy file of numbers"):
        read_openai(folder)
    assert not mark.exists()


def test_a_fine_tuned_model_has_no_openai_form(tmp_path: Path) -> None:
    model = samples.model()
    model.extend(3)
    with pytest.raises(UserError, match="3 special tokens"):
        write_openai(tmp_path, model, samples.vocabulary())
