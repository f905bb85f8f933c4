"""One contender of benchmarks/train.py, in a process of its own.

Reads commands, answers with a line of JSON each.

Commands: `steps N` (train N steps, timed), `loss` (of the first batch, without dropout), `end`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from typing import Any

import torch
from plain_gpt import PlainGPT
from torch import Tensor, nn

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LanguageModelling
from gpt1.train.config import PretrainConfig
from gpt1.train.dist import DistContext
from gpt1.train.engine import MicroBatch, parameter_groups
from gpt1.train.trainer import make_engine

MARK = "@"
RATE = 1e-4


def initial(shape: ModelConfig) -> GPT:
    """The same weights for everybody."""
    return GPT(shape, torch.Generator().manual_seed(0))


class Contender(ABC):
    """Trains on windows (B, T+1)."""

    @abstractmethod
    def step(self, windows: Tensor) -> None:
        """One update with dropout and clipping."""

    @abstractmethod
    def loss(self, windows: Tensor) -> Tensor:
        """The mean loss without dropout."""


class Ours(Contender):
    """This package's training engine: of a rank alone, or (`zero` not None) DeepSpeed with that
    stage.
    """

    def __init__(self, shape: ModelConfig, about: dict[str, Any], ranks: DistContext) -> None:
        model = initial(shape)
        model.recompute = about["recompute"]
        module = LanguageModelling(model, about["loss_chunk"], about["pad"])
        if about["compile"]:
            module.compile_for_training(one_graph=about["zero"] is None)
        config = PretrainConfig(
            batch_size=about["batch"], micro_batch_size=about["batch"],
            precision=about["precision"], zero=about["zero"] or 0,
            zero_on_one_rank=about["zero"] is not None,
        )  # fmt: skip
        self.engine = make_engine(module, config, ranks)
        self.done = 0

    def step(self, windows: Tensor) -> None:
        self.engine.step(self.done, [MicroBatch(0, (windows,))], RATE)
        self.done += 1

    def loss(self, windows: Tensor) -> Tensor:
        return self.engine.evaluate((windows,))


class Plain(Contender):
    """A plain loop: autocast for bf16, fused AdamW, clipping, compiled or not; the learning rate
    is constant.
    """

    def __init__(self, module: nn.Module, about: dict[str, Any], device: torch.device) -> None:
        self.module, self.device, self.bf16 = (
            module.to(device), device, about["precision"] == "bf16",
        )
        if about["compile"]:
            self.module.compile()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.module, 0.01), lr=RATE, fused=True)

    def forward(self, windows: Tensor) -> Tensor:
        windows = windows.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.of(windows[:, :-1], windows[:, 1:])

    def of(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self.module(ids, targets)

    def step(self, windows: Tensor) -> None:
        self.module.train()
        self.forward(windows).backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def loss(self, windows: Tensor) -> Tensor:
        self.module.eval()
        return self.forward(windows)


class HuggingFace(Plain):
    """transformers' model."""

    def of(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = self.module(ids).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def hugging_face(shape: ModelConfig, about: dict[str, Any], device: torch.device) -> Plain:
    import transformers

    from gpt1.weights.hf import hf_config, hf_weights

    module = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**hf_config(shape)))
    module.load_state_dict(hf_weights(initial(shape)), strict=False)
    module.tie_weights()
    return HuggingFace(module, about, device)


def plain(shape: ModelConfig, about: dict[str, Any], device: torch.device) -> Plain:
    module = PlainGPT(
        shape.vocabulary, shape.context, shape.width, shape.layers, shape.heads, shape.dropout
    )
    module.take_weights(initial(shape).state_dict())
    return Plain(module, about, device)


def make(about: dict[str, Any], ranks: DistContext) -> Contender:
    """The contender that `about` describes; on GPUs fp32 products may be TF32."""
    shape = ModelConfig(**about["shape"])
    torch.backends.cuda.matmul.allow_tf32 = True
    if about["kind"] == "ours":
        return Ours(shape, about, ranks)
    return {"hugging face": hugging_face, "plain sdpa": plain}[about["kind"]](
        shape, about, ranks.device
    )


def serve(about: dict[str, Any]) -> None:
    """Answer commands until `end`."""
    ranks = DistContext.connect(about["device"], about["threads"])
    windows = torch.load(about["windows"])  # (N, B, T+1)
    if about["device"] == "cuda":
        windows = windows.pin_memory()
    made = make(about, ranks)
    os.sched_setaffinity(0, about["cores"])  # after loading, which would be slow on one core
    place = 0
    answer({"ready": True})
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "end":
            return
        if command == "loss":
            answer({"loss": float(made.loss(windows[0]))})
            continue
        began, spent = time.perf_counter(), time.process_time()
        for _ in range(int(rest[0])):
            made.step(windows[place % len(windows)])
            place += 1
        if about["device"] == "cuda":
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() if about["device"] == "cuda" else None
        took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - spent}
        answer({**took, "peak_bytes": peak})


def answer(values: dict[str, Any]) -> None:
    """One line; what libraries print has no mark."""
    print(MARK + json.dumps(values), flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
