"""Training: the step, the loop, and what is due after a step.

    Trainer         the loop that pre-training and fine-tuning (gpt1.tasks.finetune) share
      train         to the last step
      train_step    micro-batches in, an optimizer step, losses out
      after_step    what follows a step
    Pretrainer      pre-training, as every rank runs it
      train         from the newest checkpoint, or the initial weights, to the last step
      validate      before the first step, where it is due, and after the last
      after_step    log, validate, sample, snapshot and checkpoint where they are due
      roll_back     to a checkpoint before a diverged loss, skipping batches

What is due depends on the step alone, so all ranks decide alike. A checkpoint comes last, so that
it holds everything its step has reported.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gpt1 import fault
from gpt1.data.sequences import SequenceSampler, skipped_in
from gpt1.data.shards import Shards
from gpt1.errors import UserError
from gpt1.generation import Sampling, generate
from gpt1.model.config import model_class
from gpt1.model.gpt import LanguageModelling
from gpt1.rng import generator
from gpt1.terminal import show
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train.checkpoint import (
    SNAPSHOTS,
    Checkpoint,
    CheckpointFacts,
    CheckpointManager,
    CheckpointStorage,
    RetentionPolicy,
    file_sha256,
)
from gpt1.train.config import PretrainConfig, RuntimeConfig, Schedule, differing
from gpt1.train.deepspeed_engine import DeepSpeedEngine
from gpt1.train.dist import DistContext, Stopped, StopSignal
from gpt1.train.divergence import Diverged, describe_rollback, plan_rollback, same_batches
from gpt1.train.engine import (
    Engine,
    MicroBatch,
    OptimizerConfig,
    StepOutput,
    TorchEngine,
    initial_state,
)
from gpt1.train.initial import load_initial
from gpt1.train.memory import check_before_training
from gpt1.train.metrics import (
    History,
    ThroughputMeter,
    device_name,
    peak_tflops,
    step_line,
    write_lines,
)
from gpt1.train.validation import HeldOut
from gpt1.weights.store import save_weights

BOOKS_FILE = "held_out_books.jsonl"
THROUGHPUT_FILE = "throughput.jsonl"
HARDWARE_FILE = "hardware.json"
PREFIX = "gpt."  # the model's name inside LanguageModelling
MicroBatches = Callable[[int], Sequence[MicroBatch]]


class Trainer:
    """Makes the steps up to `steps`.

    `batches(step)` is this rank's share of the global batch and `rate(step)` the learning rate:
    both are pure functions of the 0-based step, so nothing but the step must be known to resume.
    """

    def __init__(
        self, engine: Engine, batches: MicroBatches, rate: Callable[[int], float], steps: int
    ) -> None:
        self.engine, self.steps, self.rate = engine, steps, rate
        self.batches = Prefetcher(batches, steps, pin=engine.device.type == "cuda")
        self.step = 0
        """Steps made so far."""

    def train(self) -> None:
        """Make all steps that are left."""
        while self.step < self.steps:
            self.after_step(self.train_step())
        self.batches.close()

    def train_step(self) -> StepOutput:
        """Make one optimizer step; its losses and gradient norm are still on the device."""
        output = self.engine.step(self.step, self.batches(self.step), self.rate(self.step))
        self.step += 1
        if fault.ARMED:
            fault.point("train.step")
        return output

    def after_step(self, output: StepOutput) -> None:
        """What follows a step."""
        raise NotImplementedError


def learning_rate(
    step: int, *, max_lr: float, warmup: int, steps: int, schedule: Schedule
) -> float:
    """The rate of update `step` (0-based) out of `steps`.

    It rises linearly from 0 so that update `warmup` (counted from 1) has `max_lr`, then falls along
    a half cosine (pre-training) or a line (fine-tuning; both section 4.1 of the paper), and would
    reach 0 at the update after the last. `constant` stays.
    """
    if step < warmup:
        return max_lr * (step + 1) / warmup
    if schedule == "constant":
        return max_lr
    progress = (step - warmup + 1) / (steps - warmup + 1)  # in (0, 1)
    if schedule == "linear":
        return max_lr * (1 - progress)
    return max_lr * 0.5 * (1 + math.cos(math.pi * progress))


DEPTH = 4
"""Steps read ahead: a device is given work well before it needs it, so a slow read must last
longer than some steps to be felt.
"""


class Prefetcher:
    """The same micro-batches as `make` gives, made by a thread up to DEPTH steps ahead; pinned, so
    that copying them to a GPU waits for nothing. Which step is asked for does not matter: what was
    made for another is thrown away.
    """

    def __init__(
        self, make: Callable[[int], Sequence[MicroBatch]], steps: int, pin: bool = False
    ) -> None:
        self._make, self._steps, self._pin = make, steps, pin
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: deque[tuple[int, Future[Sequence[MicroBatch]]]] = deque()

    def __call__(self, step: int) -> Sequence[MicroBatch]:
        """The micro-batches of `step`."""
        while self._next and self._next[0][0] != step:
            self._next.popleft()[1].cancel()
        first = self._next[-1][0] + 1 if self._next else step
        for ahead in range(first, max(step + 1, min(step + 1 + DEPTH, self._steps))):
            self._next.append((ahead, self._thread.submit(self._prepare, ahead)))
        return self._next.popleft()[1].result()

    def discard(self) -> None:
        """Forget what was read ahead: `make` gives other batches now."""
        for _, batch in self._next:
            batch.cancel()
        self._next.clear()

    def close(self) -> None:
        """End the thread."""
        self.discard()
        self._thread.shutdown()

    def _prepare(self, step: int) -> Sequence[MicroBatch]:
        made = self._make(step)
        if not self._pin:
            return made
        return [
            MicroBatch(one.index, tuple(tensor.pin_memory() for tensor in one.inputs))
            for one in made
        ]


class Reporter(Protocol):
    """Rank 0 calls it; the other ranks are silent."""

    def info(self, text: str) -> None:
        """One line for the person watching."""
        ...

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """How far it is, with the step line as the note."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of one or more curves."""
        ...

    def should_stop(self) -> bool:
        """Whether training is to end with a checkpoint. Called once a step, so it must not wait."""
        ...


class ConsoleReporter:
    """Prints lines and progress notes: for `torchrun` and tests."""

    def info(self, text: str) -> None:
        show(text)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        show(note or f"{done:g}/{total:g} {unit}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Curves are in metrics.jsonl; there is nothing to print."""

    def should_stop(self) -> bool:
        return False  # under torchrun each rank has signals of its own


@dataclass(frozen=True)
class PretrainData:
    """What pre-training reads: the sequences to train on, those held out, and their vocabulary."""

    train: SequenceSampler
    validation: SequenceSampler
    vocabulary: Vocabulary

    @property
    def sha256(self) -> str:
        """Of the books' content, in their order."""
        books = [*self.train.shards.spans, *self.validation.shards.spans]
        return hashlib.sha256("".join(book.sha256 for book in books).encode()).hexdigest()

    @cached_property
    def held_out(self) -> HeldOut:
        """The held-out sequences, book by book."""
        return HeldOut.of(self.validation, self.vocabulary)


class Pretrainer(Trainer):
    """Pre-trains one model on all ranks.

    Without a `storage`, checkpoints are in `runtime.output`, which all ranks share.
    """

    def __init__(
        self, config: PretrainConfig, runtime: RuntimeConfig, ranks: DistContext,
        data: PretrainData, reporter: Reporter, storage: CheckpointStorage | None = None,
    ) -> None:
        self.config = config = config.scaled()
        self.runtime, self.ranks, self.data, self.reporter = runtime, ranks, data, reporter
        self.output = Path(runtime.output)
        self.model = config.shape(data.vocabulary.size)
        engine = make_engine(self.initial_module(for_training=True), config, ranks)
        rate = partial(
            learning_rate, max_lr=config.lr, warmup=config.warmup, steps=config.max_steps,
            schedule=config.schedule,
        )  # fmt: skip
        super().__init__(engine, self.read_micro_batches, rate, config.max_steps)
        self.checkpoints = CheckpointManager(
            self.output, [Path(path) for path in runtime.earlier],
            RetentionPolicy(config.keep_checkpoints, config.keep_every), ranks, reporter.info,
            storage,
        )  # fmt: skip
        decides = {
            **config.semantic(), "vocabulary": data.vocabulary.sha256, "data": data.sha256,
            "initial_sha256": runtime.initial_sha256,
        }  # fmt: skip
        self.facts = CheckpointFacts(config=decides, ranks=ranks.world, zero=engine.stage)
        self.stop_signal = StopSignal(
            ranks, self.output, config.checkpoint_minutes, runtime.stop_after,
            asked=reporter.should_stop,
        )
        self.throughput = ThroughputMeter(
            self.model, config.batch_size * config.context, ranks.world, peak_tflops(ranks.device)
        )
        self.history = History()
        self._losses: list[Tensor] = []
        """Losses of the steps since the last look, each (A,), still on the device."""
        self._speeds: list[dict[str, float]] = []

    def train(self) -> None:
        """Train from the newest checkpoint to the last step, and write the results.

        Raises Stopped, on all ranks after the same step, when a checkpoint has been saved on
        request; Diverged where a loss diverges and no rollback is left.
        """
        with self.stop_signal:
            self.load(self.checkpoints.latest())
            try:
                while self.step < self.steps:
                    if self.step == 0:
                        self.before_first_step()
                    try:
                        self.after_step(self.train_step())
                    except Diverged as diverged:
                        self.roll_back(diverged)
            except (Stopped, Diverged):  # which all ranks raise together
                self._settle()
                raise
            self._settle()
        self.write_results()

    def before_first_step(self) -> None:
        """Validate the initial weights, and keep a snapshot of them, where this is due."""
        with self.throughput.paused():
            if self.config.validate_every:
                self.validate()
            if self.config.keeps_snapshot(0):
                self.snapshot()

    def after_step(self, output: StepOutput) -> None:
        """Report, validate and save what is due.

        Raises Diverged, and Stopped after a checkpoint when all ranks have agreed to stop.
        """
        config, step, last = self.config, self.step, self.step == self.steps
        self._losses.append(output.losses)
        if last or step % config.log_every == 0:
            self.check_losses()
            self.log(output)
        validate, snapshot = is_due(step, config.validate_every), config.keeps_snapshot(step)
        request = self.stop_signal.poll()
        save = request.stop or request.save or is_due(step, config.checkpoint_every)
        if last or validate or snapshot or save:
            with self.throughput.paused():
                self.check_losses()
                if last or validate:
                    self.validate()
                if snapshot:
                    self.snapshot()
                if last or save:
                    self.checkpoint()
        if request.stop and not last:
            raise Stopped(step)

    def check_losses(self) -> None:
        """Read the steps' losses from the device and add their means to the history.

        A mean is summed in the order of the micro-batches, whatever the number of ranks.
        Raises Diverged.
        """
        if not self._losses:
            return
        gathered = self.ranks.gather(torch.stack(self._losses).double())  # (world, S, A)
        rows = gathered.permute(1, 2, 0).flatten(1)  # (S, A x world), by index of the micro-batch
        means = [math.fsum(losses) / len(losses) for losses in rows.tolist()]
        self._losses.clear()
        self.refuse_divergence(means, self.history.last("loss"))
        self.history.pending += [
            mean
            for step, mean in enumerate(means, self.step - len(means))
            if self.data.train.kept(self.history.batch_of(step), self.config.batch_size).any()
        ]

    def refuse_divergence(self, losses: Sequence[float], before: float | None = None) -> None:
        """Raise Diverged for the first of the `losses` of the steps up to now that is no finite
        number, or exceeds `before`, the mean of the steps before, by more than
        `loss_spike_threshold`.
        """
        threshold = self.config.loss_spike_threshold
        limit = math.inf if before is None or not threshold else before + threshold
        for step, loss in enumerate(losses, self.step - len(losses) + 1):
            if not math.isfinite(loss) or loss > limit:
                raise Diverged(step, loss, before, self.config, self.books_of(step - 1))

    def log(self, output: StepOutput) -> None:
        """Add a row of metrics, and show it."""
        config, step = self.config, self.step
        values = {"lr": self.rate(step - 1), "gradient_norm": float(output.gradient_norm)}
        loss = {"loss": self.history.take_loss()} if self.history.pending else {}
        row = self.history.row(step, {**loss, **values})
        if skipped := self.history.batch_of(step - 1) - (step - 1):
            row["skipped_batches"] = skipped
        speed = self.throughput.read(step)
        self._speeds.append({"step": step, **speed})
        if self.ranks.is_main:
            line = step_line(step, self.steps, row, speed, config.batch_size * config.context)
            self.reporter.progress(step, self.steps, "steps", line)
            shown = {name: value for name, value in {**row, **speed}.items() if name != "step"}
            self.reporter.log(step, shown)

    def validate(self) -> None:
        """Loss on `validate_sequences` held-out sequences; at the end on all, book by book. Texts
        are sampled too, but for those of the initial weights.

        Raises Diverged: the last step may have spoiled the weights.
        """
        config, held_out, evaluate = self.config, self.data.held_out, self.engine.evaluate
        if self.step == self.steps:
            self.history.books = held_out.by_book(evaluate, config.micro_batch_size, self.ranks)
            values, count = held_out.whole(self.history.books), len(held_out)
        else:
            values, count = held_out.measure(
                evaluate, config.validate_sequences, config.micro_batch_size, self.ranks
            )
        if self.step:
            self.refuse_divergence([values["validation_loss"]])
        self.history.row(self.step, values)
        samples = self.sample() if self.step else []
        self.history.samples += samples
        if not self.ranks.is_main:
            return
        self.history.write(self.output)  # so that a killed training leaves its curves
        self.reporter.log(self.step, values)
        self.reporter.info(
            f"step {self.step}: held-out perplexity {values['validation_perplexity']:.2f},"
            f" {values['validation_bits_per_byte']:.3f} bits per byte, on {count} sequences"
        )
        for sample in samples[:1]:
            text = " / ".join(sample["text"].splitlines())
            self.reporter.info(f"  {sample['prompt']} > {text}")

    def sample(self) -> list[dict[str, Any]]:
        """Texts that continue the prompts; rank 0 writes them, with the weights of all ranks."""
        config, prompts = self.config, self.runtime.prompts
        if not prompts or not config.sample_tokens:
            return []
        weights = self.model_weights()
        if not self.ranks.is_main:
            return []
        with torch.device("meta"):
            model = model_class(self.model.kind)(self.model)
        model.load_state_dict(weights, assign=True)
        sampling = Sampling(config.sample_temperature, config.sample_top_k)
        texts = []
        for number, prompt in enumerate(prompts):
            random = generator("sample", config.seed, self.step, number)
            [ids] = generate(model, [prompt.ids], config.sample_tokens, sampling, [random])
            text = self.data.vocabulary.decode(ids)
            texts.append({"step": self.step, "prompt": prompt.text, "text": text})
        return texts

    def snapshot(self) -> None:
        """Keep the weights alone, for curves over training (paper, figure 2 right)."""
        weights = self.model_weights()
        if self.ranks.is_main:
            file = self.output / SNAPSHOTS / f"step-{self.step:08d}.safetensors"
            save_weights(file, weights, self.model)
            self.history.snapshots[file.name] = file_sha256(file)

    def checkpoint(self) -> None:
        """Begin a checkpoint of everything that a resume needs."""
        self.stop_signal.saved()
        self.checkpoints.save(
            self.step, self.facts, self.history.to_json(), self.history.snapshots,
            self.engine.copy_state,
        )

    def load(self, found: Checkpoint | None) -> None:
        """Continue from a checkpoint; None: from the initial weights, which the engine has.

        Raises UserError where it is of other settings.
        """
        self.step = 0
        if found is not None:
            if changed := differing(found.facts.config, self.facts.config):
                raise UserError(
                    f"{found.folder}: this checkpoint has different settings: {', '.join(changed)}"
                    " (see its manifest.json); use the same ones, or delete the checkpoints to"
                    " start over"
                )
            self.step, self.history = found.step, History.from_json(found.history)
            if self.ranks.is_main:
                self._report_resume(found)
            self.engine.load_state(found.state)
        self.throughput.start(self.step)

    def roll_back(self, diverged: Diverged) -> None:
        """Continue from the newest checkpoint before the batches to skip, or from the start.

        All ranks come here after the same step. Later checkpoints record the rollback; a run that
        is killed before the next one diverges and rolls back again. Raises `diverged` where no
        rollback is allowed, or none is left.
        """
        event = plan_rollback(diverged, self.history.skipped, self.config, self.books_of)
        events = [*self.history.skipped, event]
        self.checkpoints.wait()
        self._losses.clear()

        def fits(checkpoint: Checkpoint) -> bool:
            skipped = skipped_in(History.from_json(checkpoint.history).skipped)
            return checkpoint.step <= event["first"] and same_batches(
                checkpoint.step, skipped, skipped_in(events)
            )

        found = self.checkpoints.latest(fits)
        self.checkpoints.delete_after(found.step if found else 0)
        if self.ranks.is_main:
            where = (
                f"to step {found.step}"
                if found
                else "to the start, as there is no earlier checkpoint"
            )
            self.reporter.info(
                f"warning: {describe_rollback(event)}; rolling back {where} (rollback"
                f" {len(events)} of {self.config.max_rollbacks})"
            )
        if found is None:
            self.history = History()
            weights = dict(self.initial_module().named_parameters())
            self.engine.load_state(initial_state(weights))
        self.load(found)
        self.history.skipped = events
        self.batches.discard()

    def write_results(self) -> None:
        """Write the model, and what training has reported."""
        weights = self.model_weights()
        if self.ranks.is_main:
            save_weights(self.output, weights, self.model)
            self.history.write(self.output)
            write_lines(self.output / BOOKS_FILE, self.history.books)
            write_lines(self.output / THROUGHPUT_FILE, self._speeds)
            hardware = {"device": device_name(self.ranks.device), "ranks": self.ranks.world}
            (self.output / HARDWARE_FILE).write_text(json.dumps(hardware) + "\n", encoding="utf-8")
        self.ranks.barrier()

    def read_micro_batches(self, step: int) -> list[MicroBatch]:
        """This rank's share of the 0-based `step`'s global batch."""
        return read_share(self.data.train, self.history.batch_of(step), self.config, self.ranks)

    def books_of(self, step: int) -> list[str]:
        """The books that the batch of the 0-based `step` was read from."""
        return self.data.train.books_of(self.history.batch_of(step), self.config.batch_size)

    def model_weights(self) -> dict[str, Tensor]:
        """The model's weights in fp32 under its own names, on every rank."""
        return {name.removeprefix(PREFIX): tensor for name, tensor in self.engine.weights().items()}

    def initial_module(self, for_training: bool = False) -> LanguageModelling:
        """The model with its initial weights, on the CPU. All ranks must call it."""
        config, runtime = self.config, self.runtime

        def make() -> LanguageModelling:
            model = (
                load_initial(self.model, runtime, self.data.vocabulary)
                if runtime.initial
                else model_class(self.model.kind)(self.model, generator("weights", config.seed))
            )
            return LanguageModelling(model, config.loss_chunk_size, config.pad_vocabulary)

        module = self.ranks.run_on_all_ranks(make)
        module.gpt.recompute = config.activation_checkpointing
        if for_training and config.compile:
            module.compile_for_training(one_graph=not config.uses_deepspeed(self.ranks.world))
        return module

    def _report_resume(self, found: Checkpoint) -> None:
        was, now = (
            {"ranks": facts.ranks, "zero": facts.zero} for facts in (found.facts, self.facts)
        )
        changed = f", saved with {was}, now {now}: same batches and dropout, different last bits"
        self.reporter.info(
            f"resuming after step {found.step} from {found.folder.name}"
            f"{'' if was == now else changed}"
        )
        # A killed driver may have taken the last points with it; a point is drawn once.
        for step, values in self.history.recent():
            self.reporter.log(step, values)

    def _settle(self) -> None:
        """End what the ranks have under way together."""
        self.batches.close()
        self.stop_signal.settle()
        self.checkpoints.wait()
        self.checkpoints.close()


def make_engine(module: LanguageModelling, config: PretrainConfig, ranks: DistContext) -> Engine:
    """DeepSpeed's engine, or torch's where a rank alone has nothing to partition or to average.

    Raises UserError where the ranks cannot share a batch, or DeepSpeed is another than tested.
    """
    share = config.accumulation(ranks.world)
    optimizer = OptimizerConfig(
        weight_decay=config.weight_decay, clip=config.grad_clip, kind=config.optimizer
    )
    if config.uses_deepspeed(ranks.world):
        return DeepSpeedEngine(module, optimizer, config, ranks, share)
    return TorchEngine(
        module, optimizer, seed=config.seed, accumulation=share, precision=config.precision,
        device=ranks.device,
    )


def pretrain(
    config: PretrainConfig, runtime: RuntimeConfig, reporter: Reporter,
    storage: CheckpointStorage | None = None,
) -> None:
    """Train from the newest complete checkpoint, or from the initial weights, to the last step.

    `storage` keeps the checkpoints where the ranks' hosts share no disk; else they are in
    `runtime.output`, which all ranks share.

    Writes into `runtime.output`: model.safetensors, config.json, snapshots/, metrics.jsonl,
    samples.jsonl, samples.md, held_out_books.jsonl, throughput.jsonl and hardware.json. The last
    two depend on run and machine; the other files' bytes depend on config, shards, number of ranks
    and threads alone, however often training was killed.

    Raises Stopped, on all ranks after the same step and with a complete checkpoint, on request
    (gpt1.train.dist). Raises UserError for shards of another vocabulary, too little text or
    memory, or a diverged loss.
    """
    open_pretrainer(config, runtime, reporter, storage).train()


def open_pretrainer(
    config: PretrainConfig, runtime: RuntimeConfig, reporter: Reporter,
    storage: CheckpointStorage | None = None,
) -> Pretrainer:
    """Connect the ranks, open the data, check that the training fits. Raises: see `pretrain`."""
    ranks = DistContext.connect(runtime.device, runtime.threads)
    data = ranks.run_on_all_ranks(lambda: open_data(config, runtime))
    if config.preflight:
        check_before_training(config, config.shape(data.vocabulary.size), ranks, reporter.info)
    return Pretrainer(config, runtime, ranks, data, reporter, storage)


def open_data(config: PretrainConfig, runtime: RuntimeConfig) -> PretrainData:
    """The training sequences, the held-out ones, and their vocabulary.

    Raises UserError where shards and vocabulary do not belong together, no book of a set is as long
    as a sequence, or a book to exclude is not in the training set.
    """
    vocabulary = Vocabulary.load(Path(runtime.vocabulary))
    def sequences(name: str, paths: tuple[str, ...], excluded: tuple[str, ...]) -> SequenceSampler:
        files, books = [Path(path) for path in paths], Path(runtime.books)
        shards = Shards.open(files, books, name, vocabulary.sha256)
        return SequenceSampler(shards, config.context, config.seed, excluded)

    train = sequences("train", runtime.train, config.exclude_books)
    return PretrainData(train, sequences("held_out", runtime.held_out, ()), vocabulary)


def read_share(
    sampler: SequenceSampler, batch: int, config: PretrainConfig, ranks: DistContext
) -> list[MicroBatch]:
    """This rank's micro-batches rank, rank + world, ... of a global batch, given by its number.

    No other sequences are read. Where the batch has sequences of excluded books, each micro-batch
    has its sequences' loss weights too, which follow from the order alone: all ranks agree.
    """
    size, share = config.micro_batch_size, []
    weights = sampler.loss_weights(batch, config.batch_size)
    for index in range(ranks.rank, config.batch_size // size, ranks.world):
        rows = range(index * size, (index + 1) * size)
        ids = torch.from_numpy(sampler.batch(batch, config.batch_size, rows))  # (m, T + 1)
        more = () if weights is None else (torch.from_numpy(weights[rows.start : rows.stop]),)
        share.append(MicroBatch(index, (ids, *more)))
    return share


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps (0: never) happens after `step`."""
    return every > 0 and step % every == 0
