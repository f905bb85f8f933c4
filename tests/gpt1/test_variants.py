"""Variants of the model: those of examples/variants against plain arithmetic, a sequence at a time;
training, weights files and generation with them; what is no variant.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt1.generation import Sampling, generate
from gpt1.generation.decoding import DecodingState
from gpt1.model.config import MODELS, ModelConfig, import_variant, model_class
from gpt1.model.gpt import GPT, Padding
from gpt1.tasks.finetune import reset_blocks
from gpt1.train.checkpoint import file_sha256
from gpt1.train.config import PretrainConfig
from gpt1.train.cost_model import describe
from gpt1.weights.hf import export
from gpt1.weights.openai import write_openai
from gpt1.weights.store import load_model, save_model
from pipeline.workflow.user_code import NONE, UserCode, install
from tests.conftest import ROOT, refuses, write
from tests.e2e.documented import code_of
from tests.gpt1 import weight_samples as samples
from tests.gpt1.rank_group import RankGroup
from tests.gpt1.tiny_pretraining import VOCABULARY, Place, changed, curve, train_here, write_data

CODE = UserCode(ROOT / "examples" / "variants", (("variants", ""),))
NAMES = ("ReLU", "ErfGELU", "SinusoidalPositions", "SegmentEmbeddings", "PreLN", "UntiedHead")
KINDS = [f"variants.py:{name}" for name in NAMES]
SHAPE = ModelConfig(vocabulary=50, context=12, width=32, layers=2, heads=4, init_std=0.2)
DELIMITER, ROTARY = 51, "rotary.py:Rotary"
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def user_code() -> Iterator[None]:
    """Those of examples/variants, as of a workflow in their folder."""
    install(CODE)
    for kind in KINDS:
        import_variant(kind)
    yield
    install(NONE)


def made(kind: str, special: int = 3, random: bool = True, **changes: Any) -> GPT:
    """A model with `special` tokens, each of its parameters random: norms and biases too."""
    shape = dataclasses.replace(SHAPE, kind=kind, **changes)
    model: GPT = model_class(kind)(shape, torch.Generator().manual_seed(1))
    if special:
        model.extend(special, torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(3)
    for parameter in model.parameters() if random else ():
        torch.nn.init.normal_(parameter, 0.0, 0.3, draw)
    return model.eval()


# Plain arithmetic


class Plain:
    """A variant's hidden states and logits of one sequence, from its weights by name."""

    def __init__(self, name: str, model: GPT) -> None:
        self.name = name.partition(":")[2]
        self.weights = {key: value.detach() for key, value in model.state_dict().items()}

    def hidden(self, ids: list[int]) -> Tensor:
        """(T,) -> (T, C)."""
        x = torch.stack([self.input(ids, place) for place in range(len(ids))])
        for block in ("h.0", "h.1"):
            if self.name == "PreLN":
                x = x + self.attention(self.norm(x, f"{block}.ln_1"), f"{block}.attn")
                x = x + self.mlp(self.norm(x, f"{block}.ln_2"), f"{block}.mlp")
            else:
                x = self.norm(x + self.attention(x, f"{block}.attn"), f"{block}.ln_1")
                x = self.norm(x + self.mlp(x, f"{block}.mlp"), f"{block}.ln_2")
        return self.norm(x, "ln_f") if self.name == "PreLN" else x

    def logits(self, hidden: Tensor) -> Tensor:
        untied = self.name == "UntiedHead"
        return hidden @ self.weights["softmax_rows" if untied else "tokens_embed.weight"].T

    def input(self, ids: list[int], place: int) -> Tensor:
        row = self.weights["tokens_embed.weight"][ids[place]]
        if self.name == "SegmentEmbeddings":
            row = row + self.weights["segments_embed.weight"][ids[:place].count(DELIMITER)]
        if self.name == "Rotary":
            return row
        if self.name != "SinusoidalPositions":
            return row + self.weights["positions_embed.weight"][place]
        waves = []
        for pair in range(16):
            angle = place / 10_000 ** (2 * pair / 32)
            waves += [math.sin(angle), math.cos(angle)]
        return row + torch.tensor(waves) * math.sqrt(2) * 0.2

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, x: Tensor, name: str) -> Tensor:
        q, k, v = self.linear(x, f"{name}.c_attn").chunk(3, -1)
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        heads = []
        for head in range(4):
            own = slice(8 * head, 8 * head + 8)
            to, of = q[:, own], k[:, own]
            if self.name == "Rotary":
                to, of = self.rotated(to), self.rotated(of)
            scores = (to @ of.T / math.sqrt(8)).masked_fill(later, -math.inf)
            heads.append(scores.softmax(-1) @ v[:, own])
        return self.linear(torch.cat(heads, -1), f"{name}.c_proj")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        x = self.linear(x, f"{name}.c_fc")
        if self.name == "ReLU":
            x = x.clamp(min=0)
        elif self.name == "ErfGELU":
            x = x / 2 * (1 + torch.erf(x / math.sqrt(2)))
        else:
            x = x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self.linear(x, f"{name}.c_proj")


    def rotated(self, x: Tensor) -> Tensor:
        """(T, hs): columns j and j + hs/2 are a complex number, turned by T x 10,000^(-2j/hs)."""
        angle = torch.arange(len(x))[:, None] * 10_000 ** -(torch.arange(4) / 4)
        turned = torch.complex(x[:, :4], x[:, 4:]) * torch.exp(1j * angle)
        return torch.cat([turned.real, turned.imag], -1)


SEQUENCES = [[50, 3, 4, 51, 5, 6, 7, 52], [50, 9, 52], [50, 8, 7, 6, 5, 4, 3, 2, 51, 1, 52],
             [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("kind", [*KINDS, "gpt", ROTARY])
def test_it_computes_what_plain_arithmetic_does(kind: str, tmp_path: Path) -> None:
    """Alone, padded, and for the last positions alone, as pre-training and fine-tuning do."""
    if kind == ROTARY:  # that of the page
        folder = write(tmp_path, {"rotary.py": code_of("variant.md")[0]})
        install(UserCode(folder, (("rotary", ""),)))
        import_variant(kind)
    model = made(kind)
    plain = Plain(kind, model)
    expected = [plain.hidden(ids) for ids in SEQUENCES]
    for ids, states in zip(SEQUENCES, expected, strict=True):
        found = model(torch.tensor([ids]))
        assert torch.allclose(found[0], states, atol=1e-5)
        assert torch.allclose(model.lm_logits(found)[0], plain.logits(states), atol=1e-5)
    padded = torch.tensor([ids + [0] * (12 - len(ids)) for ids in SEQUENCES])
    padding = Padding.after(torch.tensor([len(ids) for ids in SEQUENCES]), 12)
    assert torch.allclose(model(padded, padding), torch.cat(expected), atol=1e-5)
    last = torch.stack([states[-1] for states in expected])
    assert torch.allclose(model(padded, padding, last=True), last, atol=1e-5)
    assert model.vocabulary_logits(last).shape == (4, 50)


def test_they_differ_from_the_default_and_from_each_other() -> None:
    ids = torch.tensor([SEQUENCES[0]])
    logits = [model.lm_logits(model(ids)) for model in map(made, [*KINDS, "gpt"])]
    for number, one in enumerate(logits):
        assert not any(torch.allclose(one, other) for other in logits[:number])


# Weights


@every_kind
def test_all_but_what_is_changed_begins_as_in_the_default(kind: str) -> None:
    usual, own = (made(one, 0, False).state_dict() for one in ("gpt", kind))
    same = usual.keys() & own.keys()
    assert len(same) >= 25
    assert all(torch.equal(usual[name], own[name]) for name in same)


OWN = {"SinusoidalPositions": -512 * 768, "SegmentEmbeddings": 2 * 768, "PreLN": 2 * 768,
       "UntiedHead": 40_478 * 768}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_flops_are_its_own(name: str) -> None:
    config = PretrainConfig(model=f"variants.py:{name}", max_steps=10)
    shape, count = config.shape(40_478), 116_534_784 + OWN.get(name, 0)
    assert shape.parameters() == count
    assert shape.flops_per_token() == 6 * count + 12 * 12 * 768 * 512
    text = str(describe(config, 40_478, ranks=1, cpu=True))
    assert f"all weights of {config.model}" in text
    assert f"{count:,}" in text


def test_the_number_of_heads_changes_neither_parameters_nor_flops() -> None:
    """So heads are no variant, but a setting."""
    shapes = [PretrainConfig(heads=heads).shape(40_478) for heads in (3, 6, 12, 24)]
    assert {one.parameters() for one in shapes} == {116_534_784}
    assert len({one.flops_per_token() for one in shapes}) == 1


@every_kind
def test_its_weights_name_it_and_are_read_again(kind: str, tmp_path: Path) -> None:
    model = made(kind)
    save_model(tmp_path, model)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == kind
    found, ids = load_model(tmp_path).eval(), torch.tensor([SEQUENCES[0]])
    assert type(found) is MODELS[kind]
    assert torch.equal(found(ids), model(ids))
    del MODELS[kind]  # as in a process that has not imported it
    said = f"{tmp_path}: its class '{kind}' is not imported; use the model by the name of its job,"
    refuses(said, load_model, tmp_path)


def test_no_module_is_imported_because_weights_name_it(tmp_path: Path) -> None:
    model = made("gpt")
    model.config = dataclasses.replace(model.config, kind="evil.py:Model")
    save_model(tmp_path, model)
    install(UserCode(write(tmp_path, {"evil.py": "raise SystemExit"}), (("evil", ""),)))
    refuses("its class 'evil.py:Model' is not imported", load_model, tmp_path)


@every_kind
def test_blocks_are_drawn_again_and_the_rest_is_transferred(kind: str) -> None:
    model, before = made(kind), made(kind).state_dict()
    reset_blocks(model, 1, seed=5)
    after = model.state_dict()
    for name, value in before.items():
        is_drawn = name.startswith("h.1.") and after[name].numel() > 0
        assert torch.equal(after[name], value) is not is_drawn, name


def test_formats_of_others_refuse_it(tmp_path: Path) -> None:
    model, vocabulary = made(KINDS[0], 0), samples.vocabulary()
    for write_it in (lambda: export(tmp_path, model, vocabulary, ""),
                     lambda: write_openai(tmp_path, model, vocabulary)):  # fmt: skip
        refuses(r"the model is variants.py:ReLU, but .* export a model of `model: gpt`", write_it)


# Generation and training


@every_kind
def test_it_generates_what_it_computes_at_each_step(kind: str) -> None:
    """Without the key/value cache, which computes as the default does."""
    model = made(kind, 0)
    assert DecodingState(model, [[1]], 4)._cached is None
    draws = [torch.Generator().manual_seed(4)]
    [found] = generate(model, [[1, 2]], 6, Sampling(0.0), draws)
    ids, plain = [1, 2], Plain(kind, model)
    for token in found:
        assert token == int(plain.logits(plain.hidden(ids))[-1].argmax())
        ids.append(token)


def train(place: Place) -> str:
    """Train in a process whose workflow has the variants."""
    install(CODE)
    return train_here(place).text


@every_kind
def test_it_is_trained_with_samples_and_snapshots(kind: str, tmp_path: Path) -> None:
    place = changed(write_data(tmp_path), model=kind, max_steps=12, snapshot_every=6)
    assert f"  {place.prompts[0].text} > " in train(place)
    losses = curve(place, "loss")
    assert losses[-1] < losses[0]
    for file in ("model.safetensors", "snapshots/step-00000006.safetensors"):
        assert load_model(Path(place.output) / file).config.kind == kind


def test_training_begins_with_given_weights_of_its_kind(tmp_path: Path) -> None:
    place = write_data(tmp_path)
    folder = tmp_path / "given"
    size = place.config.shape(VOCABULARY.size)
    file = save_model(folder, model_class(KINDS[0])(dataclasses.replace(size, kind=KINDS[0])))
    VOCABULARY.save(folder)
    given = {"initial": str(folder), "initial_sha256": file_sha256(file), "max_steps": 3}
    train(changed(place, model=KINDS[0], **given))
    refuses("kind variants.py:ReLU, here gpt", train_here, changed(place, **given))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "zero"), [("UntiedHead", 1), ("UntiedHead", 3), ("PreLN", 1)])
def test_two_ranks_train_it_as_one_does(
    name: str, zero: int, tmp_path: Path, ranks: RankGroup
) -> None:
    place = changed(write_data(tmp_path), model=f"variants.py:{name}", max_steps=12, zero=zero)
    both = dataclasses.replace(place, output=str(tmp_path / "both"))
    ranks.call(train, both)
    train(place)
    assert curve(both, "loss") == pytest.approx(curve(place, "loss"), abs=1e-5)


# What is no variant


WRONG = [
    ("mine.py:Model", "raise ValueError('two\\nlines')", r"cannot be imported \(ValueError: two"),
    ("mine.py:Model", "import nothing_like_it", "cannot be imported .*nothing_like_it"),
    ("mine.py:Model", "", "mine.py has no Model; expected a subclass of gpt1.model.gpt.GPT"),
    ("mine.py:Model", "class Model: pass", "mine.py has <class .*> as Model; expected a subclass"),
    ("mine.py:Model", "def Model(): pass", "mine.py has <function .*> as Model; expected"),
    ("other.py:Model", "", "no file other.py in the folder of the workflow"),
    ("my/other.py:Model", "", "no file my/other.py in the folder"),
    ("../mine.py:Model", "", "expected gpt, lstm, or a class such"),
    ("my-file.py:Model", "", "expected gpt, lstm, or a class such"),
    ("mine:Model", "", "expected gpt, lstm, or a class such"),
    ("bert", "", "expected gpt, lstm, or a class such as variants.py:ReLU"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "said"), WRONG)
def test_what_is_no_variant_is_refused(kind: str, text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, {"mine.py": text})
    install(UserCode(tmp_path, (("mine", ""),)))
    with pytest.raises(ValueError, match=said):
        PretrainConfig(model=kind)


IMPORT = "from gpt1.model.gpt import GPT\nimport torch\nclass Model(GPT):\n"
INIT = "    def __init__(self, config, generator=None):\n"
INIT += "        super().__init__(config, generator)\n"
UNBUILT = [
    ("    def __init__(self, config): pass\n", r"cannot be built \(.*; fix it"),
    (f"{INIT}        self.register_buffer('table', torch.zeros(3))\n", "has 'table', which"),
    (f"{INIT}        self.register_buffer('t', torch.zeros(3), persistent=False)\n", "has 't'"),
    (f"{INIT}        self.h[1] = self.h[0]\n", "has 'h.1.attn.c_attn.bias', which weights files"),
]


@pytest.mark.parametrize(("text", "said"), UNBUILT)
def test_what_cannot_be_trained_is_refused(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, {"mine.py": IMPORT + text})
    install(UserCode(tmp_path, (("mine", ""),)))
    shape = PretrainConfig(model="mine.py:Model", layers=2, width=32, heads=2).shape(50)
    refuses(said, shape.parameters)
