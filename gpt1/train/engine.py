"""What computes a step.

Two engines with one interface: DeepSpeed's (any number of ranks) and plain torch's (a rank alone).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt1.train.host_memory import keep_freed_memory
from gpt1.train.optimiser import OptimiserConfig, make_optimiser
from gpt1.train.portable import (
    PORTABLE_FILE,
    PortableState,
    copy_state,
    initial_state,
    read_portable,
    restore_state,
    write_portable,
)
from gpt1.train.random_state import seed_micro_batch

Precision = Literal["fp32", "bf16"]
Write = Callable[[], Path]
"""Writes a file and returns its path."""


@dataclass(frozen=True)
class MicroBatch:
    """The inputs of one forward, and the micro-batch's place in the global batch."""

    index: int
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Outcome:
    """The losses (A,) of this rank's A micro-batches and the gradient's norm () before clipping,
    both still on the device: reading them waits for it.
    """

    losses: Tensor
    gradient_norm: Tensor


class Engine(ABC):
    """A module whose forward returns a scalar loss, its optimiser, and the device they are on.

    The loss of a step is the mean over all micro-batches of the global batch.
    """

    module: nn.Module
    device: torch.device
    seed: int
    stage: int
    """The ZeRO stage in force."""
    observer: Callable[[int, MicroBatch], None] | None = None
    """Told the step and each micro-batch after its forward and backward."""

    def step(self, step: int, micro_batches: Sequence[MicroBatch], learning_rate: float) -> Outcome:
        """One update (0-based `step`) from this rank's micro-batches, whose number must be the
        same every time.
        """
        self._set_learning_rate(learning_rate)
        self.module.train()
        losses = []
        for n, micro_batch in enumerate(micro_batches):
            seed_micro_batch(self.seed, step, micro_batch.index)
            losses.append(
                self._accumulate(
                    self._to_device(micro_batch.inputs), last=n == len(micro_batches) - 1
                )
            )
            if self.observer:
                self.observer(step, micro_batch)
        return Outcome(torch.stack(losses), self._update())

    @torch.no_grad()
    def evaluate(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The module's loss without gradient or dropout."""
        self.module.eval()
        return self._forward(self._to_device(inputs))

    def _to_device(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in inputs)

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The module's parameters in fp32, whole, on the CPU. All ranks must call it."""

    @abstractmethod
    def save(self, folder: Path) -> list[Write]:
        """Copy what a resume needs; the calls returned write it into the existing `folder`, each
        a file, and may be made later and in another thread. All ranks must call it.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take up what `save` wrote. All ranks must call it."""

    def begin_anew(self, weights: Mapping[str, Tensor]) -> None:
        """Take `weights` (fp32, complete, by parameter), without moments, as before the first
        update. All ranks must call it.
        """
        self._restore(initial_state(weights))

    @abstractmethod
    def _restore(self, state: PortableState) -> None: ...

    @abstractmethod
    def _forward(self, inputs: tuple[Tensor, ...]) -> Tensor: ...

    @abstractmethod
    def _accumulate(self, inputs: tuple[Tensor, ...], last: bool) -> Tensor:
        """Forward and backward of one micro-batch; returns its loss, detached."""

    @abstractmethod
    def _update(self) -> Tensor:
        """Clip, step, zero; returns the gradient's norm."""

    @abstractmethod
    def _set_learning_rate(self, rate: float) -> None: ...


class TorchEngine(Engine):
    """One process, no DeepSpeed: pre-training on a rank alone, and fine-tuning jobs. bf16 is
    torch's autocast.
    """

    stage = 0

    def __init__(
        self, module: nn.Module, optimiser: OptimiserConfig, *, seed: int, accumulation: int = 1,
        precision: Precision = "fp32", device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        if self.device.type == "cpu":
            keep_freed_memory()
        self.module = module.to(self.device)
        self.seed = seed
        self.precision = precision
        self.accumulation = accumulation
        self.clip = optimiser.clip
        self.optimiser = make_optimiser(module, optimiser)

    def weights(self) -> dict[str, Tensor]:
        return {
            name: p.detach().float().cpu().clone() for name, p in self.module.named_parameters()
        }

    def save(self, folder: Path) -> list[Write]:
        state = copy_state(self.module, self.optimiser)
        return [lambda: write_portable(folder / PORTABLE_FILE, state)]

    def load(self, folder: Path) -> None:
        self._restore(read_portable(folder / PORTABLE_FILE))

    def _restore(self, state: PortableState) -> None:
        restore_state(self.module, self.optimiser, state)

    def _forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        with self._autocast():
            return self.module(*inputs)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _accumulate(self, inputs: tuple[Tensor, ...], last: bool) -> Tensor:  # noqa: ARG002
        loss = self._forward(inputs)
        (loss / self.accumulation).backward()
        return loss.detach()

    def _update(self) -> Tensor:
        norm = clip_gradients(self.module, self.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    def _set_learning_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate


def clip_gradients(module: nn.Module, clip: float) -> Tensor:
    """Scale the gradient so that its global norm is at most `clip` (0: leave it).

    Returns the norm before.
    """
    return nn.utils.clip_grad_norm_(
        module.parameters(), clip if clip > 0 else float("inf")
    ).detach()
