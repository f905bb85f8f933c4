"""Commands about models: `import`, `export`, `generate`, `predict`, `perplexity`."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from gpt1.errors import UserError
from pipeline.cli.atomic_dir import new_folder
from pipeline.cli.options import (
    WORKFLOW_HELP,
    Assignments,
    FileToRead,
    Profile,
    StoreOption,
    flag,
    profiles,
    read_artifacts,
)
from pipeline.planning.last_run import RunArtifacts

if TYPE_CHECKING:
    from gpt1.weights.checkpoint import Checkpoint

WHERE = (
    "Checkpoint folder, or job of the last run: pretrain, pretrain@300 (a snapshot),"
    " finetune[task=rte,seed=1]."
)
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder to write; must be new or empty.")
]
Where = Annotated[str, typer.Argument(help=WHERE, metavar="CHECKPOINT")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, or cuda.")]
Json = Annotated[bool, flag("--json", "Print JSON Lines.")]
LongProfile = Annotated[
    str | None,
    typer.Option("--profile", help="Workflow profile.", autocompletion=profiles),
]
WorkflowToRead = Annotated[Path | None, typer.Option("--workflow", help=WORKFLOW_HELP)]

importing = typer.Typer(
    help="Convert published weights to a checkpoint.", no_args_is_help=True
)
exporting = typer.Typer(help="Convert a checkpoint to another format.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(importing, name="import")
    app.add_typer(exporting, name="export")
    for command in (generate, predict, perplexity):
        app.command()(command)


@importing.command("openai")
def import_openai(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of params_*.npy, params_shapes.json, and the vocabulary."),
    ],
    out: Out,
) -> None:
    """Import OpenAI's files of 2018."""
    from gpt1.weights.openai import read_openai

    _write_import(*read_openai(folder), out)


@importing.command("hf")
def import_hf(
    name: Annotated[
        str, typer.Argument(help="transformers folder, or a model in the local Hub cache.")
    ],
    out: Out,
) -> None:
    """Import a transformers model (safetensors only)."""
    from gpt1.weights.hf_import import dropped_heads, find_hf, read_hf

    folder = find_hf(name)
    _write_import(*read_hf(folder), out)
    if heads := dropped_heads(folder):
        print(f"skipped the task heads, as a language model has none: {', '.join(heads)}")


@exporting.command("hf")
def export_hf(
    where: Where,
    out: Out,
    license: Annotated[
        str,
        typer.Option(
            help="License for the model card, as spelled on the Hugging Face Hub (`cc-by-4.0`)."
        ),
    ] = "",
    file: FileToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
) -> None:
    """Export a folder that transformers loads, with a model card."""
    from gpt1.report.licenses import check_license
    from gpt1.report.model_card import model_card
    from gpt1.report.model_index import Publication
    from gpt1.weights.hf import export, hf_class
    from pipeline.cli.model_lookup import find

    publication = Publication(license=check_license(license))
    found = find(where, partial(read_artifacts, file, profile, assignments, store))
    one = found.checkpoint
    card = model_card(one.model.config, one.vocabulary, found.sources, one.tuned, publication)
    with new_folder(out, f"--out {out}") as folder:
        export(folder, one.model, one.vocabulary, card, one.tuned)
    print(f"{found.name} for {hf_class(one.tuned)}: {out}")


@exporting.command("openai")
def export_openai(
    where: Where, out: Out, file: FileToRead = None, profile: Profile = None,
    assignments: Assignments = None, store: StoreOption = "store",
) -> None:
    """Export the ten .npy files of OpenAI's 2018 release."""
    from gpt1.weights.openai import write_openai
    from pipeline.cli.model_lookup import find

    found = find(where, partial(read_artifacts, file, profile, assignments, store))
    with new_folder(out, f"--out {out}") as folder:
        write_openai(folder, found.checkpoint.model, found.checkpoint.vocabulary)
    print(f"{found.name} in OpenAI's format: {out}")


@exporting.command("mlflow")
def export_mlflow(
    where: Where, out: Out, file: FileToRead = None, profile: Profile = None,
    assignments: Assignments = None, store: StoreOption = "store",
) -> None:
    """Export a folder for `mlflow models serve`."""
    from gpt1.report.model_card import model_card
    from gpt1.weights.hf import export
    from pipeline.cli.model_lookup import find
    from pipeline.tracking.model_registry import write_mlflow_model

    path = str(out.absolute())
    if (
        "#" in path or unquote(path) != path
    ):  # MLflow's reader takes the path for an address a second time
        raise UserError(
            f"--out {out}: MLflow cannot load a model from a path with `#` or an escape such as"
            " `%20`; choose another folder"
        )
    found = find(where, partial(read_artifacts, file, profile, assignments, store))
    one = found.checkpoint
    card = model_card(one.model.config, one.vocabulary, found.sources, one.tuned)
    with new_folder(out, f"--out {out}") as folder:
        export(folder.with_name(f"{folder.name}-hf"), one.model, one.vocabulary, card, one.tuned)
        try:
            write_mlflow_model(folder, folder.with_name(f"{folder.name}-hf"))
        finally:
            shutil.rmtree(folder.with_name(f"{folder.name}-hf"))
    serving = shlex.join(
        [
            "mlflow", "models", "serve", "--env-manager", "local", "--model-uri",
            out.absolute().as_uri(),
        ]
    )
    print(f"{found.name} for MLflow; serve it with: {serving}")


def generate(
    where: Where = "pretrain",
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Text to continue. Repeatable."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="File with one prompt per line.")
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", "-n", help="Maximum number of tokens to generate.")
    ] = 60,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0: greedy.")] = 0.8,
    top_k: Annotated[
        int, typer.Option(help="Sample from the k most likely tokens; 0: all.")
    ] = 40,
    top_p: Annotated[
        float,
        typer.Option(help="Sample from the fewest tokens with this total probability; 1: all."),
    ] = 1.0,
    beams: Annotated[int, typer.Option(help="Beam search with N beams; 0: off.")] = 0,
    length_penalty: Annotated[
        float, typer.Option(help="Beam search: divide scores by length to this power.")
    ] = 1.0,
    stop_at_newline: Annotated[
        bool, flag("--stop-at-newline", "Stop at the first newline.")
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Random seed; the same seed gives the same text.")
    ] = 0,
    file: FileToRead = None,
    profile: LongProfile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Generate text from prompts.

    When the context is full, the oldest half is dropped (docs/explanation/weights.md).
    """
    from gpt1.serve import Answerer, check_sampling

    check_sampling(tokens, temperature, top_k, top_p, beams)
    texts = [*(prompt or []), *(_lines(prompts) if prompts else [])] or [""]
    answerer = Answerer(
        _load(where, partial(read_artifacts, file, profile, assignments, store), device)
    )
    stream = _Stream(answerer, texts[0]) if len(texts) == 1 and not beams and not as_json else None
    found = answerer.generate(
        texts, tokens, temperature, top_k, top_p, beams, length_penalty, stop_at_newline, seed,
        stream.token if stream else None,
    )
    if stream:
        print(flush=True)
        return
    for given, text in zip(texts, found, strict=True):
        print(
            json.dumps({"prompt": given, "text": text}, ensure_ascii=False)
            if as_json
            else f"{given} {text}".strip()
        )


def predict(
    task: Annotated[str, typer.Argument(help="Task, such as rte or race.")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="Input; twice for a pair, or document and question."),
    ] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option("--choice", "-c", help="Answer choice (multiple choice). Repeatable."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Examples: .jsonl with `texts` and `choices`, or tab-separated text."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"{WHERE} Default: the task's first with weights."),
    ] = None,
    workflow: WorkflowToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a fine-tuned model on one example or a file of examples."""
    from gpt1.serve import Answerer
    from gpt1.tasks.example import Example
    from gpt1.tasks.table import task_named
    from pipeline.cli.input_files import read_plain_examples
    from pipeline.cli.model_lookup import kept

    if "." not in task:  # one of the user's is known by the model
        task_named(task)
    if bool(text) == bool(file):
        raise UserError(
            "predict: expected one example with --text (and --choice), or a file of examples with"
            " --file"
        )
    examples = (
        read_plain_examples(file)
        if file
        else [Example("1", tuple(text or ()), tuple(choice or ()))]
    )
    artifacts = cache(partial(read_artifacts, workflow, profile, assignments, store))
    answerer = Answerer(_load(model or kept(task, artifacts()), artifacts, device))
    tuned = answerer.checkpoint.tuned
    if tuned is None or tuned.task.name != task:
        found = f"fine-tuned for {tuned.task.name}" if tuned else "not fine-tuned"
        raise UserError(
            f"{model}: this model is {found}, expected one for {task}; choose another with --model"
        )
    for row in answerer.predict(examples):
        shares = " ".join(f"{share:.3f}" for share in row["probabilities"])
        print(
            json.dumps(row, ensure_ascii=False)
            if as_json
            else f"{row['id']}\t{row['label']}\t{shares}".rstrip()
        )


def perplexity(
    files: Annotated[list[Path], typer.Argument(help="UTF-8 text files.", metavar="FILE...")],
    model: Annotated[str, typer.Option("--model", "-m", help=WHERE)] = "pretrain",
    stride: Annotated[
        int | None,
        typer.Option(help="Tokens between window starts; default: half the context."),
    ] = None,
    file: FileToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compute perplexity and bits per byte, for each file and in total.

    Bytes are counted in the file as it is, before cleaning.
    """
    from gpt1.evaluate.texts import TextScore, text_score, total
    from gpt1.text.encoder import TextEncoder

    texts = {file: _text(file) for file in files}
    found = _load(model, partial(read_artifacts, file, profile, assignments, store), device)
    encoder, scores = TextEncoder(found.vocabulary), list[TextScore]()
    for file, text in texts.items():
        scores.append(
            text_score(found.model, str(file), encoder.encode(text), len(text.encode()), stride)
        )
    rows = [*scores, total(scores)] if len(scores) > 1 else scores
    for one in rows:
        values = {
            "file": one.name, "tokens": one.ids, "perplexity": one.perplexity,
            "bits_per_byte": one.bits_per_byte,
        }
        line = (
            f"{one.name}\t{one.ids} tokens\tperplexity"
            f" {one.perplexity:.2f}\t{one.bits_per_byte:.3f} bits per byte"
        )
        print(json.dumps(values, ensure_ascii=False) if as_json else line)


class _Stream:
    """Prints a text as it grows."""

    def __init__(self, answerer: Any, prompt: str) -> None:
        self._decode: Callable[[list[int]], str] = answerer.encoder.decode
        self._ids: list[int] = []
        self._shown = 0
        print(f"{prompt} ".lstrip(), end="", flush=True)

    def token(self, _: int, token: int) -> None:
        self._ids.append(token)
        text = self._decode(self._ids)
        print(text[self._shown :], end="", flush=True)
        self._shown = len(text)


def _load(where: str, artifacts: Callable[[], RunArtifacts], device: str) -> Checkpoint:
    import torch

    from pipeline.cli.model_lookup import find

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: expected auto, cpu, or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU; use --device cpu, or fix the driver")
    found = find(where, artifacts).checkpoint
    place = (
        "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    )
    (found.tuned.model if found.tuned else found.model).to(place)
    return found


def _write_import(model: Any, vocabulary: Any, out: Path) -> None:
    from gpt1.weights.checkpoint import Checkpoint, save_checkpoint

    with new_folder(out, f"--out {out}") as folder:
        save_checkpoint(folder, Checkpoint(model, vocabulary))
    config = model.config
    print(
        f"{config.parameters():,} parameters ({config.layers} layers, width {config.width},"
        f" {config.heads} heads, context {config.context}), {vocabulary.size:,} tokens: {out}"
    )


def _lines(path: Path) -> list[str]:
    lines = _text(path).splitlines()
    if not lines:
        raise UserError(f"{path}: no prompts found; write one per line")
    return lines


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is not UTF-8; convert the file first"
        ) from error
