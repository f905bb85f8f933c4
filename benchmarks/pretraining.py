"""What a finished run taught its model, to keep: the curve, held-out perplexity, samples and
zero-shot scores of a store.

    python benchmarks/pretraining.py --store STORE [--job pretrain] --out FOLDER

Writes FOLDER/README.md with charts beside it. Computes nothing anew: every figure is what the
workflow left in the store, and the page names the settings, the commit and the machine of the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpt1.errors import UserError  # noqa: E402
from gpt1.format import number  # noqa: E402
from gpt1.report.charts import charts, draw, standalone  # noqa: E402
from gpt1.report.collect import METRICS, collect, samples_of  # noqa: E402
from gpt1.report.sources import Source, of_kind, only  # noqa: E402
from pipeline.store.base import Store  # noqa: E402
from pipeline.store.record import ArtifactRecord  # noqa: E402
from pipeline.store.snapshot import StoreSnapshot  # noqa: E402

CHARTS = ("perplexity", "loss", "zero-shot", "zero-shot-normalized")
SAMPLED = 4
"""Moments of pre-training whose samples are kept."""


def main() -> int:
    """Write the page; exit status 2 where the store has no such run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--job", default="pretrain", help="the name of the pre-training job")
    parser.add_argument("--out", type=Path, required=True, help="a folder, made if need be")
    words = parser.parse_args()
    record, sources = read(words.store, words.job)
    words.out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for chart in charts(collect(sources), smoothing=0.9):
        if chart.name in CHARTS:
            (words.out / f"{chart.name}.svg").write_text(standalone(draw(chart)), encoding="utf-8")
            drawn.append((chart.name, chart.title))
    (words.out / "README.md").write_text(page(words, record, sources, drawn), encoding="utf-8")
    print(f"{words.out}: README.md and {len(drawn)} charts")
    return 0


def read(folder: Path, cell: str) -> tuple[ArtifactRecord, list[Source]]:
    """The newest record of `cell`; and as sources that cell, the shards it read and the
    zero-shot cells that scored it.
    """
    store = Store.existing(folder)
    snapshot = StoreSnapshot(store)
    found = [record for record in snapshot.records("pretrain") if record.cell == cell]
    if not found:
        known = ", ".join(sorted({r.cell for r in snapshot.records("pretrain")})) or "none"
        raise UserError(
            f"{folder}: no finished cell {cell!r}; finished pre-training jobs: {known}; name one"
            " with --job"
        )
    record = max(found, key=lambda one: one.finished)
    read = record.inputs.values()
    shard = [one for one in snapshot.records("shard") if one.fingerprint in read]
    scored = [
        one for one in snapshot.records("zero_shot") if record.fingerprint in one.inputs.values()
    ]
    return record, [_source(store, one) for one in (*shard, record, *scored)]


def _source(store: Store, record: ArtifactRecord) -> Source:
    made = record.artifact()
    files = {name: store.fetch(file) for name, file in made.files.items()}
    return Source(
        made.stage, made.cell, made.fingerprint, made.digest, made.settings, made.summary, files
    )


def page(
    words: argparse.Namespace, record: ArtifactRecord, sources: Sequence[Source],
    drawn: Sequence[tuple[str, str]],
) -> str:
    """The README.md."""
    model, shard = only(sources, "pretrain"), only(sources, "shard")
    settings, facts = model.settings, model.summary
    resources, packages = record.resources, record.packages
    lines = [
        f"# Pre-training: `{model.cell}`",
        "",
        (
            f"`python benchmarks/pretraining.py --store STORE --job '{words.job}' --out"
            f" {words.out.as_posix()}` writes this page from the store."
        ),
        "",
        (
            f"{settings['model']}, {settings['layers']} layers, width {settings['width']},"
            f" {settings['heads']} heads, context {settings['context']}, dropout"
            f" {settings['dropout']:g}, {facts['parameters']:,} parameters; batch"
            f" {settings['batch_size']}, lr {settings['lr']:g}, {facts['steps']:,} steps,"
            f" {facts['tokens']:,} tokens ({facts['epochs']:.3f} epochs of"
            f" {shard.fact('train_tokens'):,}); {settings['precision']}, ZeRO {settings['zero']}."
        ),
        (
            f"{resources['workers']} ranks of {resources['cpus']:g} CPUs and {resources['gpus']:g}"
            f" GPUs ({record.machine}); the stage took {record.seconds / 60:.0f} minutes."
            f" Commit {str(record.git_commit)[:12]}; Python {packages['python']}, torch"
            f" {packages['torch']}, DeepSpeed {packages['deepspeed']}, Ray {packages['ray']}."
        ),
        "",
        (
            f"Held-out perplexity **{facts['validation_perplexity']:.2f}**"
            f" ({facts['validation_bits_per_byte']:.3f} bits per byte); baselines on the same"
            f" shards: unigram {facts['unigram_perplexity']:.1f}, bigram"
            f" {facts['bigram_perplexity']:.1f}."
        ),
        "",
        *(f"![{title}]({name}.svg)" for name, title in drawn),
        "",
        "## The curve",
        "| step | training loss | held-out perplexity | bits per byte |",
        "|--:|--:|--:|--:|",
        *(
            f"| {row['step']:,} | {number(row.get('loss'))} | {row['validation_perplexity']:.2f} |"
            f" {row['validation_bits_per_byte']:.3f} |"
            for row in model.rows(METRICS)
            if row.get("validation_perplexity") is not None
        ),
        "",
        "The last row is of all held-out windows, those before of evenly spread ones.",
        *_zero_shot(of_kind(sources, "zero_shot")),
        "",
        "## Samples",
    ]
    for moment in samples_of(model, SAMPLED):
        lines += ["", f"After {moment['step']:,} updates:", ""]
        lines += [f"- **{text['prompt']}** {text['text']}" for text in moment["texts"]]
    return "\n".join(lines) + "\n"


def _zero_shot(cells: Sequence[Source]) -> list[str]:
    if not cells:
        return []
    lines = [
        "", "## Zero-shot", "| task | examples | update | score | standard error | normalised |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for cell in cells:
        metric, n = cell.fact("metric"), cell.fact("n")
        for row in cell.rows("curve.jsonl"):
            share = "" if row.get("normalised") is None else f"{row['normalised']:.3f}"
            error = "" if row.get("standard_error") is None else f"{row['standard_error']:.2f}"
            lines.append(
                f"| {cell.settings['task']} | {n:,} | {row['step']:,} | {row[metric]:.2f} | {error}"
                f" | {share} |"
            )
    return [
        *lines,
        "",
        (
            "Normalized: 0 is guessing (or the majority), 1 is the state of the art before the"
            " paper (section 5, figure 2)."
        ),
    ]


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        print(f"benchmarks/pretraining.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
