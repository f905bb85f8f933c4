"""OpenAI's ten files: an independent conversion, byte for byte there and back, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.openai import array_names, array_shapes, read_openai, write_openai
from tests.gpt1 import weight_samples as samples
from tests.gpt1.weight_samples import Damage, edit, plant, remove, write

transformers = pytest.importorskip("transformers")


def independent(folder: Path, layers: int, heads: int) -> torch.nn.Module:
    """transformers' model from the files in the order of the arrays, as its conversion of 2018."""
    shapes = json.loads((folder / "params_shapes.json").read_text())
    flat = np.concatenate([np.load(folder / f"params_{n}.npy") for n in range(10)])
    parts = np.split(flat, np.cumsum([np.prod(shape) for shape in shapes]))[:-1]
    arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    (context, width), (vocabulary, _) = shapes[:2]
    config = transformers.OpenAIGPTConfig(
        vocab_size=vocabulary, n_positions=context, n_embd=width, n_layer=layers, n_head=heads
    )
    theirs = transformers.OpenAIGPTLMHeadModel(config).eval()
    with torch.no_grad():
        theirs.transformer.positions_embed.weight.copy_(torch.from_numpy(arrays.pop(0)))
        theirs.transformer.tokens_embed.weight.copy_(torch.from_numpy(arrays.pop(0)))
        for block in theirs.transformer.h:
            attn, mlp = block.attn, block.mlp
            for place in (attn.c_attn, attn.c_proj, block.ln_1, mlp.c_fc, mlp.c_proj, block.ln_2):
                place.weight.copy_(torch.from_numpy(arrays.pop(0).squeeze()))
                place.bias.copy_(torch.from_numpy(arrays.pop(0)))
    assert not arrays
    theirs.tie_weights()
    return theirs


def assert_same_logits(ours: GPT, theirs: torch.nn.Module, ids: torch.Tensor) -> None:
    with torch.no_grad():
        expected = theirs(ids).logits
        assert float((ours.lm_logits(ours(ids)) - expected).abs().max()) < 1e-5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model of heads of 64 in OpenAI's form, as published: without our config.json."""
    made, model = tmp_path / "openai", samples.model(width=128, heads=2, init_std=0.02)
    write_openai(made, model, samples.vocabulary())
    (made / "config.json").unlink()
    return made


def test_names_and_orders_against_an_independent_conversion(folder: Path, tmp_path: Path) -> None:
    ours, vocabulary = read_openai(folder)
    ids = torch.randint(0, 60, (3, 16), generator=torch.Generator().manual_seed(1))
    assert_same_logits(ours.eval(), independent(folder, 2, 2), ids)
    written = write_openai(tmp_path / "again", ours, vocabulary)
    published = [file for file in written if file.name != "config.json"]
    assert all(file.read_bytes() == (folder / file.name).read_bytes() for file in published)
    assert len(published) == len(list(folder.iterdir())) == len(written) - 1


@pytest.mark.slow
def test_ten_files_in_the_published_shapes(shared: Path, tmp_path: Path) -> None:
    """146 arrays, 116,534,784 numbers, random: as OpenAI's, but for the values."""
    for name in ("params_shapes.json", "encoder_bpe_40000.json", "vocab_40000.bpe"):
        shutil.copy(shared / "gpt1_bpe" / name, tmp_path / name)
    shapes = json.loads((tmp_path / "params_shapes.json").read_text())
    assert shapes == array_shapes(ModelConfig())
    assert len(shapes) == len(array_names(12)) == 146
    size = sum(int(np.prod(shape)) for shape in shapes)
    assert size == 116_534_784
    draw = np.random.default_rng(3)
    flat = draw.standard_normal(size, dtype=np.float32) * np.float32(0.05)
    for number, part in enumerate(np.split(flat, np.sort(draw.integers(0, size, 9)))):
        np.save(tmp_path / f"params_{number}.npy", part)  # cut anywhere: all are joined again
    ours, vocabulary = read_openai(tmp_path)
    assert ours.config == ModelConfig()
    text = "It wasn't the first time; the sea, he said, is never the same.\nShe looked at him."
    ids = torch.tensor([TextEncoder(vocabulary).encode(text)])
    assert_same_logits(ours.eval(), independent(tmp_path, 12, 12), ids)


def test_a_fine_tuned_model_has_no_openai_form(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 special tokens"):
        write_openai(tmp_path, samples.model(special_tokens=3), samples.vocabulary())


def numbers(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Of one of the ten files."""
    return lambda f: np.save(f / "params_4.npy", change(np.load(f / "params_4.npy")))


def other_vocabulary(folder: Path) -> None:
    remove("encoder_bpe_*", "vocab_*")(folder)
    Vocabulary.from_merges(list("abc"), [("a", "b")]).save(folder)


def pickled_array(folder: Path) -> None:
    bomb = np.array([samples.Bomb(folder / "mark")], dtype=object)
    np.save(folder / "params_0.npy", bomb, allow_pickle=True)


SHAPES = "params_shapes.json"
REFUSED: list[tuple[Damage, str]] = [
    (
        edit(SHAPES, lambda s: [*s[:8], [1, 128, 500], *s[9:]]),
        r"8 \(h\.0\.mlp\.c_fc\.weight\).* 512",
    ),
    (edit(SHAPES, lambda s: [s[1], s[0], *s[2:]]), "another model's vocabulary"),
    (edit(SHAPES, lambda s: s[:-1]), r"25 arrays; expected 2 \+ 12 a layer"),
    (edit(SHAPES, lambda s: [[9], *s[1:]]), r"first two arrays are \[\[9\], "),
    (edit(SHAPES, lambda s: [[16, 100], [60, 100], *s[2:]]), "100 is no multiple of 64"),
    (write(SHAPES, b"[[0, -1]]"), "a list of shapes"),
    (write(SHAPES, b"[[1,"), "not JSON"),
    (remove(SHAPES), r"params_shapes\.json: no such file"),
    (write("params_4.npy", b"\x93NUMPY"), r"params_4\.npy: not a whole \.npy file"),
    (numbers(lambda part: part[:-5]), r"hold [\d,]+ numbers .* asks for [\d,]+"),
    (numbers(lambda part: part.astype(np.float64)), r"params_4\.npy: holds float64"),
    (remove("params_7.npy"), r"params_7\.npy: no such file"),
    (write("config.json", b"{"), "not a model's config"),
    (other_vocabulary, r"has \d+ tokens; this is another model's vocabulary"),
    (remove("vocab_*"), "and 0 files vocab_"),
    (pickled_array, r"params_0\.npy: not a whole \.npy file of numbers"),
    (plant("params_0.npy"), r"params_0\.npy: not a whole \.npy file of numbers"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSED)
def test_what_does_not_fit_is_refused(damage: Damage, message: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_openai(folder)
    assert str(folder) in str(caught.value)
    assert not (folder / "mark").exists()
