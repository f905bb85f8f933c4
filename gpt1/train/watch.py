"""What happens between steps of pre-training: metrics, validation, samples, snapshots,
checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.data.sequences import SequenceSampler
from gpt1.generate import Sampling, generate
from gpt1.model.gpt import GPT
from gpt1.text.vocabulary import Vocabulary
from gpt1.train.checkpoint import CheckpointFacts, CheckpointManager, sha256
from gpt1.train.dist import DistContext
from gpt1.train.divergence import refuse_divergence
from gpt1.train.engine import Engine, StepOutput
from gpt1.train.history import History
from gpt1.train.pretrain_config import PretrainConfig
from gpt1.train.reporter import Reporter
from gpt1.train.rng import generator
from gpt1.train.rollback import batch_of, skipped_in
from gpt1.train.schedule import learning_rate
from gpt1.train.stop_signal import Stopped, StopSignal
from gpt1.train.throughput import ThroughputMeter, step_line
from gpt1.train.validation import HeldOut
from gpt1.weights.store import save_weights

PREFIX = "gpt."  # the model's name inside LanguageModelling


@dataclass
class Watch:
    """Called after every step, on every rank.

    All it decides depends on the step alone, so all ranks decide alike.
    """

    config: PretrainConfig
    engine: Engine
    ranks: DistContext
    held_out: HeldOut
    vocabulary: Vocabulary
    history: History
    checkpoints: CheckpointManager
    checkpoint_every: int
    facts: CheckpointFacts
    output: Path
    reporter: Reporter
    throughput: ThroughputMeter
    stop_signal: StopSignal
    sampler: SequenceSampler
    spike: float = 0.0
    """Nats by which a step's loss may exceed the mean of the steps before; 0: by any."""
    _losses: list[Tensor] = field(default_factory=list)
    """Losses of steps since the last reduction, each (A,), still on the device."""
    _speeds: list[dict[str, float]] = field(default_factory=list)

    def after_step(self, done: int, outcome: StepOutput) -> None:
        """`done` updates have been made.

        Order matters: a checkpoint holds all that its step has had to say.

        Raises Stopped, after a checkpoint, when all ranks agreed to stop.
        """
        config = self.config
        self._losses.append(outcome.losses)
        last = done == config.steps
        if last or done % config.log_every == 0:
            self._log(done, outcome)
        if not last and due(done, config.validate_every):
            self._aside(self._validate, done, config.validate_windows)
        if due(done, config.snapshot_every):
            self._aside(self._snapshot, done)
        if last:
            self._aside(self._validate_books, done)
        asked = self.stop_signal.poll()
        if last or asked.stop or asked.save or due(done, self.checkpoint_every):
            self._aside(self.checkpoint, done)
        if asked.stop and not last:
            raise Stopped(done)

    def _aside(self, work: Any, done: int, *more: Any) -> None:
        """`work` with the weights after `done` updates, once it is known that no loss before
        them diverged.
        """
        self.throughput.pause()
        self._reduce(done)
        work(done, *more)
        self.throughput.resume()

    def _log(self, done: int, outcome: StepOutput) -> None:
        config = self.config
        self._reduce(done)
        rate = learning_rate(
            done - 1, max_lr=config.max_lr, warmup=config.warmup, steps=config.steps,
            schedule=config.schedule,
        )
        row = self.history.row(
            done,
            {
                **({"loss": self.history.take_loss()} if self.history.pending else {}),
                "lr": rate, "gradient_norm": float(outcome.gradient_norm),
            },
        )
        if skipped := self.batch_of(done - 1) - (done - 1):
            row["skipped_batches"] = skipped
        speed = self.throughput.read(done)
        self._speeds.append({"step": done, **speed})
        if self.ranks.is_main:
            line = step_line(done, config.steps, row, speed, config.batch * config.model.context)
            self.reporter.progress(done, config.steps, "steps", line)
            self.reporter.log(
                done, {name: value for name, value in {**row, **speed}.items() if name != "step"}
            )

    def _reduce(self, done: int) -> None:
        """Turn the losses kept on the device into one mean a step.

        Summed in the order of the micro-batches, whatever the ranks.
        """
        if not self._losses:
            return
        gathered = self.ranks.gather(torch.stack(self._losses).double())  # (world, S, A)
        steps = gathered.permute(1, 2, 0).flatten(1)  # (S, A x world), by index of the micro-batch
        means = [math.fsum(losses) / len(losses) for losses in steps.tolist()]
        self._losses.clear()
        refuse_divergence(
            means, done, self.config, self.books_of, self.history.last("loss"), self.spike
        )
        self.history.pending += [
            mean
            for step, mean in enumerate(means, done - len(means))
            if self.sampler.kept(self.batch_of(step), self.config.batch).any()
        ]

    def _validate(self, done: int, limit: int) -> None:
        values, count = self.held_out.measure(
            self.engine.evaluate, limit, self.config.micro_batch, self.ranks
        )
        self._tell(done, values, count)

    def _validate_books(self, done: int) -> None:
        """At the end: all held-out windows, book by book."""
        self.history.books = self.held_out.by_book(
            self.engine.evaluate, self.config.micro_batch, self.ranks
        )
        self._tell(done, self.held_out.whole(self.history.books), len(self.held_out))

    def _tell(self, done: int, values: dict[str, float], count: int) -> None:
        refuse_divergence(
            [values["validation_loss"]], done, self.config, self.books_of
        )  # the last update may have spoiled all
        self.history.row(done, values)
        samples = self._samples(done)
        self.history.samples += samples
        if self.ranks.is_main:
            self.history.write(self.output)  # so that a training that is cut off leaves its curves
            self.reporter.log(done, values)
            self.reporter.info(
                f"step {done}: held-out perplexity {values['validation_perplexity']:.2f},"
                f" {values['validation_bits_per_byte']:.3f} bits per byte, on {count} sequences"
            )
            for sample in samples[:1]:
                self.reporter.info(
                    f"  {sample['prompt']} > {' / '.join(sample['text'].splitlines())}"
                )

    def _samples(self, done: int) -> list[dict[str, Any]]:
        """Rank 0 writes; the weights it needs are gathered from all."""
        config = self.config
        if not config.prompts or not config.sample_tokens:
            return []
        weights = self.model_weights()
        if not self.ranks.is_main:
            return []
        model = model_from(weights, config)
        sampling = Sampling(config.temperature, config.top_k)
        samples = []
        for n, prompt in enumerate(config.prompts):
            ids = generate(
                model, prompt.ids, config.sample_tokens, sampling,
                generator("sample", config.seed, done, n),
            )
            samples.append(
                {"step": done, "prompt": prompt.text, "text": self.vocabulary.decode(ids)}
            )
        return samples

    def _snapshot(self, done: int) -> None:
        """Weights alone, for curves over training (figure 2, right)."""
        weights = self.model_weights()
        if self.ranks.is_main:
            file = self.output / "snapshots" / f"step-{done:08d}.safetensors"
            save_weights(file, weights, self.config.model)
            self.history.snapshots[file.name] = sha256(file)

    def checkpoint(self, done: int) -> None:
        """Begin a checkpoint of everything a resume needs, as of now."""
        self.stop_signal.saved()
        self.checkpoints.save(
            done, self.facts, self.history.to_json(), self.history.snapshots,
            self.engine.copy_state,
        )

    def batch_of(self, step: int) -> int:
        """The batch, in the order of the data, that the 0-based `step` is made from."""
        return batch_of(step, skipped_in(self.history.skipped))

    def books_of(self, step: int) -> list[str]:
        """The books that the batch of the 0-based `step` was read from."""
        return self.sampler.books_of(self.batch_of(step), self.config.batch)

    def forget(self) -> None:
        """Training goes back: losses not looked at yet count no more."""
        self._losses.clear()

    def model_weights(self) -> dict[str, Tensor]:
        """The model's weights in fp32 under its own names, on every rank."""
        return {name.removeprefix(PREFIX): tensor for name, tensor in self.engine.weights().items()}

    @property
    def speeds(self) -> list[dict[str, float]]:
        """Readings of the throughput in this process; they differ from run to run."""
        return self._speeds


def due(done: int, every: int) -> bool:
    """Whether something that happens every `every` steps (0: never) happens now."""
    return every > 0 and done % every == 0


def model_from(weights: Mapping[str, Tensor], config: PretrainConfig) -> GPT:
    """A model of its own with these weights, on the CPU."""
    with torch.device("meta"):
        model = GPT(config.model)
    model.load_state_dict(dict(weights), assign=True)
    return model
