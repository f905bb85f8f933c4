"""Commands about models: `import`, `export`, `generate`, `predict`, `perplexity`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from gpt1.errors import UserError
from gpt1.format import counted
from gpt1.terminal import show, to_json
from pipeline.cli.lineage import copied_text, format_text
from pipeline.cli.model_lookup import finetuned_job, resolve_model
from pipeline.cli.options import PROFILES, WORKFLOW_HELP, ReadOptions, flag
from pipeline.cli.output import named, new_folder
from pipeline.planning.last_run import RunArtifacts

if TYPE_CHECKING:
    from gpt1.model.gpt import GPT
    from gpt1.tokenizer.vocabulary import Vocabulary
    from gpt1.weights.checkpoint import Checkpoint

WHERE = (
    "Checkpoint folder, or job of the last run: pretrain, pretrain@300 (a snapshot),"
    " finetune[task=rte,seed=1]."
)
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must be new or empty.")]
Where = Annotated[str, typer.Argument(help=WHERE, metavar="CHECKPOINT")]
Model = Annotated[str, typer.Option("--model", "-m", help=WHERE)]
TUNED_HELP = f"{WHERE} Default: the task's first with weights."
Tuned = Annotated[str | None, typer.Option("--model", "-m", help=TUNED_HELP)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, or cuda.")]
JsonLines = Annotated[bool, flag("--json", "Print JSON Lines.")]


@dataclass(frozen=True)
class GenerateOptions(ReadOptions):
    """The same, but `-p` is a prompt."""

    profile: Annotated[
        str | None, typer.Option("--profile", help="Workflow profile.", autocompletion=PROFILES)
    ] = None


@dataclass(frozen=True)
class PredictOptions(ReadOptions):
    """The same, but `--file` is a file of examples."""

    file: Annotated[Path | None, typer.Option("--workflow", help=WORKFLOW_HELP)] = None


def import_openai(folder: Path, /, out: Out) -> None:
    """Import OpenAI's files of 2018.

    Args:
        folder: Folder of params_*.npy, params_shapes.json, and the vocabulary.
    """
    from gpt1.weights.openai import read_openai

    _write_import(*read_openai(folder), out)


def import_hf(name: str, /, out: Out) -> None:
    """Import a transformers model (safetensors only).

    Args:
        name: transformers folder, or a model in the local Hub cache.
    """
    from gpt1.weights.hf import find_hf, read_hf

    model, vocabulary, heads = read_hf(find_hf(name))
    _write_import(model, vocabulary, out)
    if heads:
        show(f"skipped the task heads, as a language model has none: {', '.join(heads)}")


def export_hf(
    where: Where, out: Out, license: str = "", all_snapshots: bool = False, *,
    options: ReadOptions,
) -> None:
    """Export a folder that transformers loads, with a model card, a manifest of its files, and the
    workflow that makes the model again (docs/how-to/publish.md).

    Args:
        license: License for the model card, as spelled on the Hugging Face Hub (`cc-by-4.0`).
        all_snapshots: Also each snapshot of the training, in folders such as step-000128.
    """
    from gpt1.report.model_card import check_license
    from gpt1.weights.hf import hf_class

    check_license(license)
    artifacts = cache(options.artifacts)
    model = resolve_model(where, artifacts)
    steps = model.snapshots if all_snapshots else ()
    if all_snapshots and not steps:
        expected = "expected a pretrain job that ran with snapshot_every or snapshot_steps"
        raise UserError(f"--all-snapshots: {where} has no snapshots; {expected}")
    with new_folder(out, f"--out {out}") as folder:
        for step in steps:
            snapshot = resolve_model(f"{where}@{step}", artifacts)
            snapshot.export(folder / f"step-{step:06d}", license)
        model.export(folder, license, steps)
    also = f" and {counted(len(steps), 'snapshot')}" if steps else ""
    show(f"{model.name}{also} for {hf_class(model.checkpoint.tuned)}: {out}")


def export_openai(where: Where, out: Out, options: ReadOptions) -> None:
    """Export the ten .npy files of OpenAI's 2018 release."""
    from gpt1.weights.openai import write_openai

    model = resolve_model(where, options.artifacts)
    with new_folder(out, f"--out {out}") as folder:
        write_openai(folder, model.checkpoint.model, model.checkpoint.vocabulary)
    show(f"{model.name} in OpenAI's format: {out}")


def export_mlflow(where: Where, out: Out, options: ReadOptions) -> None:
    """Export a folder for `mlflow models serve`."""
    from pipeline.tracking.model_registry import write_mlflow_model

    path = str(out.absolute())
    if "#" in path or unquote(path) != path:  # MLflow reads the path as an address once more
        problem = "MLflow cannot load a model from a path with `#` or an escape such as `%20`"
        raise UserError(f"--out {out}: {problem}; choose another folder")
    model = resolve_model(where, options.artifacts)
    with (
        new_folder(out, f"--out {out}") as folder,
        TemporaryDirectory(prefix=f".{out.name}-", dir=folder.parent) as temporary,
    ):
        exported = Path(temporary, "hf")
        model.export(exported)
        write_mlflow_model(folder, exported)
    command = ["mlflow", "models", "serve", "--env-manager", "local", "--model-uri"]
    serving = shlex.join([*command, out.absolute().as_uri()])
    show(f"{model.name} for MLflow; serve it with: {serving}")


def generate(
    where: Where = "pretrain", prompt: list[str] | None = None, prompts: Path | None = None,
    tokens: int = 60, temperature: float = 0.8, top_k: int = 40, top_p: float = 1.0,
    beams: int = 0, length_penalty: float = 1.0, stop_at_newline: bool = False, seed: int = 0,
    trace: bool = False, *, options: GenerateOptions, device: Device = "auto",
    as_json: JsonLines = False,
) -> None:
    """Generate text from prompts.

    When the context is full, the oldest half is dropped (docs/explanation/weights.md).

    Args:
        prompt (-p): Text to continue. Repeatable.
        prompts: File with one prompt per line.
        tokens (-n): Maximum number of tokens to generate.
        temperature: Sampling temperature; 0: greedy.
        top_k: Sample from the k most likely tokens; 0: all.
        top_p: Sample from the fewest tokens with this total probability; 1: all.
        beams: Beam search with N beams; 0: off.
        length_penalty: Beam search: divide scores by length to this power.
        stop_at_newline: Stop at the first newline.
        seed: Random seed; the same seed gives the same text.
        trace: Show which spans of the generated text, of 8 tokens or more, the training books have.
    """
    from gpt1.tasks.predictor import Predictor, check_sampling

    check_sampling(tokens, temperature, top_k, top_p, beams, length_penalty)
    texts = [*(prompt or []), *(_lines(prompts) if prompts else [])] or [""]
    artifacts = cache(options.artifacts)
    search = copied_text(where, artifacts) if trace else None
    predictor = Predictor(_load(where, artifacts, device))
    streams = len(texts) == 1 and not beams and not as_json
    on_token = _stream(texts[0], predictor.encoder.decode) if streams else None
    continuations = predictor.generate(
        texts, tokens, temperature, top_k, top_p, beams, length_penalty, stop_at_newline, seed,
        on_token,
    )  # fmt: skip
    if streams:
        show()
    for start, text in zip(texts, continuations, strict=True):
        row: dict[str, Any] = {"prompt": start, "text": text}
        if search:
            row["copied"] = search(text)
        if as_json or not streams:
            show(to_json(row) if as_json else f"{start} {text}".strip())
        if search and not as_json:
            show(format_text(row["copied"]))


def predict(
    task: str, /, text: list[str] | None = None, choice: list[str] | None = None,
    examples: Path | None = None, model: Tuned = None, *, options: PredictOptions,
    device: Device = "auto", as_json: JsonLines = False,
) -> None:
    """Run a fine-tuned model on one example or a file of examples.

    Args:
        task: Task, such as rte or race.
        text (-t): Input; twice for a pair, or document and question.
        choice (-c): Answer choice (multiple choice). Repeatable.
        examples (--file): Examples: .jsonl with `texts` and `choices`, or tab-separated text.
    """
    from gpt1.tasks.io import Example, read_plain_examples
    from gpt1.tasks.predictor import Predictor
    from gpt1.tasks.registry import task_named

    if "." not in task:  # one of the user's is known by the model
        task_named(task)
    if bool(text) == bool(examples):
        one = "one example with --text (and --choice)"
        raise UserError(f"predict: expected {one}, or a file of examples with --file")
    given = [Example("1", tuple(text or ()), tuple(choice or ()))]
    rows = read_plain_examples(examples) if examples else given
    artifacts = cache(options.artifacts)
    predictor = Predictor(_load(model or finetuned_job(task, artifacts()), artifacts, device))
    tuned = predictor.checkpoint.tuned
    if tuned is None or tuned.task.name != task:
        found = f"fine-tuned for {tuned.task.name}" if tuned else "not fine-tuned"
        problem = f"this model is {found}, expected one for {task}"
        raise UserError(f"{model}: {problem}; choose another with --model")
    for row in predictor.predict(rows):
        shares = " ".join(f"{share:.3f}" for share in row["probabilities"])
        line = f"{row['id']}\t{row['label']}\t{shares}".rstrip()
        show(to_json(row) if as_json else line)


def perplexity(
    files: list[Path], /, model: Model = "pretrain", stride: int | None = None, *,
    options: ReadOptions, device: Device = "auto", as_json: JsonLines = False,
) -> None:
    """Compute perplexity and bits per byte, for each file and in total.

    Bytes are counted in the file as it is, before cleaning.

    Args:
        files (FILE...): UTF-8 text files.
        stride: Tokens between window starts; default: half the context.
    """
    from gpt1.model.loglikelihood import text_score, total
    from gpt1.tokenizer.tokenizer import Tokenizer

    texts = {file: _text(file) for file in files}
    checkpoint = _load(model, options.artifacts, device)
    encode = Tokenizer(checkpoint.vocabulary).encode
    scores = [
        text_score(checkpoint.model, str(file), encode(text), len(text.encode()), stride)
        for file, text in texts.items()
    ]
    rows = [*scores, total(scores)] if len(scores) > 1 else scores
    for one in rows:
        figures = {"perplexity": one.perplexity, "bits_per_byte": one.bits_per_byte}
        values = {"file": one.name, "tokens": one.ids, **figures}
        score = f"perplexity {one.perplexity:.2f}\t{one.bits_per_byte:.3f} bits per byte"
        line = f"{one.name}\t{one.ids} tokens\t{score}"
        show(to_json(values) if as_json else line)


def _stream(prompt: str, decode: Callable[[list[int]], str]) -> Callable[[int, int], None]:
    """Print a prompt; returns what prints the rest of the text as it grows."""
    ids: list[int] = []
    show(f"{prompt} ".lstrip(), end="")

    def on_token(_: int, token: int) -> None:
        printed = decode(ids) if ids else ""
        show(decode([*ids, token])[len(printed) :], end="")
        ids[:] = [*ids[-7:], token]  # a few are enough to tell where spaces are

    return on_token


def _load(where: str, artifacts: Callable[[], RunArtifacts], device: str) -> Checkpoint:
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: expected auto, cpu, or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU; use --device cpu, or fix the driver")
    checkpoint = resolve_model(where, artifacts).checkpoint
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    (checkpoint.tuned.model if checkpoint.tuned else checkpoint.model).to(device)
    return checkpoint


def _write_import(model: GPT, vocabulary: Vocabulary, out: Path) -> None:
    from gpt1.weights.checkpoint import Checkpoint, save_checkpoint

    with new_folder(out, f"--out {out}") as folder:
        save_checkpoint(folder, Checkpoint(model, vocabulary))
    one = model.config
    shape = f"{one.layers} layers, width {one.width}, {one.heads} heads, context {one.context}"
    count = f"{one.parameters():,} parameters ({shape})"
    show(f"{count}, {vocabulary.size:,} tokens: {out}")


def _lines(path: Path) -> list[str]:
    lines = _text(path).splitlines()
    if not lines:
        raise UserError(f"{path}: no prompts found; write one per line")
    return lines


def _text(path: Path) -> str:
    try:
        with named(str(path), "expected a text file", "read"):
            return sys.stdin.read() if str(path) == "-" else path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8; convert the file first"
        raise UserError(f"{path}: {problem}") from error
