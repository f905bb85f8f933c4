"""What computes a step.

Two engines with one interface: DeepSpeed's (any number of ranks) and plain torch's (a rank alone).
"""

from __future__ import annotations

import ctypes
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt1.errors import UserError
from gpt1.rng import seed_micro_batch
from gpt1.train.checkpoint import WEIGHTS, TrainingState
from gpt1.train.config import Precision
from gpt1.train.reference_adam import ReferenceAdam

MOMENTS = ("exp_avg", "exp_avg_sq")  # of both kinds of optimizer
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1
PARTS = (WEIGHTS, *MOMENTS)
"""What the state of a training has for each parameter."""
Values = Mapping[str, Tensor]
"""A parameter's complete fp32 tensors, by part."""


@dataclass(frozen=True)
class MicroBatch:
    """The inputs of one forward, and the micro-batch's place in the global batch."""

    index: int
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepOutput:
    """The losses (A,) of this rank's A micro-batches and the gradient's norm () before clipping,
    both still on the device: reading them waits for it.
    """

    losses: Tensor
    gradient_norm: Tensor


class Engine(ABC):
    """A module whose forward returns a scalar loss, its optimizer, and the device they are on.

    The loss of a step is the mean over all micro-batches of the global batch.
    """

    module: nn.Module
    optimizer: Any
    """torch's, or DeepSpeed's around it."""
    device: torch.device
    seed: int
    stage: int
    """The ZeRO stage in force."""
    observer: Callable[[int, MicroBatch], None] | None = None
    """Told the step and each micro-batch after its forward and backward."""

    def step(
        self, step: int, micro_batches: Sequence[MicroBatch], learning_rate: float
    ) -> StepOutput:
        """One update (0-based `step`) from this rank's micro-batches, whose number must be the
        same every time.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
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
        return StepOutput(torch.stack(losses), self._update())

    @torch.no_grad()
    def evaluate(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The module's loss without gradient or dropout."""
        self.module.eval()
        return self._forward(self._to_device(inputs))

    def _to_device(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in inputs)

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The complete parameters in fp32, on the CPU. All ranks must call it."""

    @abstractmethod
    def copy_state(self) -> TrainingState | None:
        """A copy of the complete state on rank 0, None on the others. All ranks must call it."""

    @abstractmethod
    def load_state(self, state: TrainingState | None) -> None:
        """Continue from rank 0's `state`; those of the other ranks are ignored. All ranks must
        call it, at the beginning or between updates. Raises UserError, on all ranks, when it is of
        another model.
        """

    @abstractmethod
    def _forward(self, inputs: tuple[Tensor, ...]) -> Tensor: ...

    @abstractmethod
    def _accumulate(self, inputs: tuple[Tensor, ...], last: bool) -> Tensor:
        """Forward and backward of one micro-batch; returns its loss, detached."""

    @abstractmethod
    def _update(self) -> Tensor:
        """Clip, step, zero; returns the gradient's norm."""


class TorchEngine(Engine):
    """One process, no DeepSpeed: pre-training on a rank alone, and fine-tuning jobs. bf16 is
    torch's autocast.
    """

    stage = 0

    def __init__(
        self, module: nn.Module, optimizer: OptimizerConfig, *, seed: int, accumulation: int = 1,
        precision: Precision = "fp32", device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        if self.device.type == "cpu":
            keep_freed_memory()
        self.module = module.to(self.device)
        self.seed = seed
        self.precision = precision
        self.accumulation = accumulation
        self.clip = optimizer.clip
        self.optimizer = make_optimizer(module, optimizer)

    def weights(self) -> dict[str, Tensor]:
        return copy_weights(self.module)

    def copy_state(self) -> TrainingState:
        return copy_state(self.module, self.optimizer)

    def load_state(self, state: TrainingState | None) -> None:
        if state is None:
            raise ValueError("a rank alone has no other rank's state to load")
        check_parameters(self.module, state)
        values = (
            (name, {part: state.parts[part][name] for part in PARTS})
            for name in state.parts[WEIGHTS]
        )
        restore_state(self.module, self.optimizer, state.updates, values)

    def _forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self.module(*inputs)

    def _accumulate(self, inputs: tuple[Tensor, ...], last: bool) -> Tensor:  # noqa: ARG002
        loss = self._forward(inputs)
        (loss / self.accumulation).backward()
        return loss.detach()

    def _update(self) -> Tensor:
        norm = clip_gradients(self.module, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def clip_gradients(module: nn.Module, clip: float) -> Tensor:
    """Scale the gradient so that its global norm is at most `clip` (0: leave it).

    Returns the norm before.
    """
    return nn.utils.clip_grad_norm_(
        module.parameters(), clip if clip > 0 else float("inf")
    ).detach()


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters to the CPU, in fp32."""
    return {name: copy_to_cpu(parameter) for name, parameter in module.named_parameters()}


def copy_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Copy to the CPU the state of a torch optimizer over `module`'s own, complete parameters.

    Before the first update there are no moments.
    """
    first = next(iter(optimizer.state.values()), None)
    state = TrainingState(round(float(first["step"])) if first else 0)
    for name, parameter in module.named_parameters():
        state.parts[WEIGHTS][name] = copy_to_cpu(parameter)
        for moment in MOMENTS if first else ():
            state.parts[moment][name] = copy_to_cpu(optimizer.state[parameter][moment])
    return state


@torch.no_grad()
def restore_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, updates: int,
    values: Iterable[tuple[str, Values]],
) -> None:
    """The inverse of `copy_state`, from each parameter's `values`."""
    # An update without gradient at rate 0: the optimizer allocates its moments.
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    parameters = dict(module.named_parameters())
    for name, tensors in values:
        parameter = parameters[name]
        parameter.copy_(tensors[WEIGHTS])
        optimizer.state[parameter]["step"].fill_(updates)
        for moment in MOMENTS:
            optimizer.state[parameter][moment].copy_(tensors[moment])


def initial_state(weights: Mapping[str, Tensor]) -> TrainingState:
    """The state before the first update: `weights` (fp32, complete, by parameter), and moments of
    zeros.
    """
    state = TrainingState()
    for name, tensor in weights.items():
        state.parts[WEIGHTS][name] = tensor.detach()
        for moment in MOMENTS:
            state.parts[moment][name] = torch.zeros_like(tensor)
    return state


def check_parameters(module: nn.Module, state: TrainingState) -> None:
    """Raise UserError unless `state` has the names and shapes of `module`'s parameters."""
    expected = {name: shape_of(parameter) for name, parameter in module.named_parameters()}
    for part in PARTS:
        found = {name: tensor.shape for name, tensor in state.parts[part].items()}
        if found != expected:
            wrong = min(n for n in {*found, *expected} if found.get(n) != expected.get(n))
            raise UserError(
                f"checkpoint: its {part} are those of another model; first difference {wrong!r};"
                " delete the checkpoints to start over"
            )


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """Of the complete parameter: ZeRO 3 empties it and keeps its shape in `ds_shape`."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def copy_to_cpu(tensor: Tensor) -> Tensor:
    """A copy in fp32."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


# The optimizer


Kind = Literal["adamw", "reference"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam's figures. `clip` bounds the global norm of the gradient (0: no clipping).

    `kind` is torch's fused `adamw`, or the `reference`: Adam as OpenAI's code of 2018 has it.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    kind: Kind = "adamw"


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: parameters of two or more dimensions with decay, the others without.

    An empty group is left out.
    """
    # ZeRO 3 empties parameters and keeps their true shape in ds_shape
    dimensions = [
        (p, len(getattr(p, "ds_shape", p.shape))) for p in module.parameters() if p.requires_grad
    ]
    groups = [
        {"params": [p for p, n in dimensions if n >= 2], "weight_decay": weight_decay},
        {"params": [p for p, n in dimensions if n < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's fused AdamW, or the reference.

    Its learning rate is set before every update by the engine.
    """
    groups = parameter_groups(module, config.weight_decay)
    if config.kind == "reference":
        return ReferenceAdam(groups, betas=config.betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)


def keep_freed_memory() -> bool:
    """Keep the memory that a CPU step frees in this process, for the next step.

    glibc gives large blocks back to the kernel, so every step would map and zero its activations
    again, page by page. Two of its switches (mallopt(3)) leave them with the process, whose
    largest size grows (gpt1.train.memory). Returns False where the C library is not glibc, and
    nothing was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
