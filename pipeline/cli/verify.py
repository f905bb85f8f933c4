"""`gpt1 verify` and `gpt1 gc`: what is damaged in a store or an export, and what no one needs."""

from __future__ import annotations

import errno
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import typer

from gpt1.errors import UserError
from gpt1.format import counted, size
from gpt1.terminal import one_line, show
from pipeline.cli.options import Json, StoreOption
from pipeline.cli.output import print_json
from pipeline.planning.last_run import last_run
from pipeline.store.base import Store
from pipeline.store.inventory import InventoryItem, garbage, inspect, remove
from pipeline.store.lease import Leases


def verify(
    export: Path | None = None, /, store: StoreOption = "store", as_json: Json = False
) -> None:
    """Compare every file of the store with its record, and list unused attempts; or every file of
    an export with its manifest.

    `gpt1 run` then makes damaged artifacts again. Exit status 1: something is damaged, or missing
    or extra in an export. An edited card is listed only.

    Args:
        export (EXPORT): Folder written by `gpt1 export hf`, instead of the store.
    """
    found = _inspect_export(export) if export else _inspect_store(store)
    wrong = [one for one in found if one.kind not in ("attempt", "edited")]
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        for one in found:
            show(one_line(_line(one)))
        unused = [one for one in found if one.kind == "attempt"]
        spare = "" if export else f"; {counted(len(unused), 'unused attempt')}, {_size(unused)}"
        show(f"{counted(len(wrong), 'problem')} found{spare}")
        if wrong and not export:
            show("`gpt1 run` makes damaged artifacts again")
        if unused:
            show("`gpt1 gc` deletes what no one needs")
    raise typer.Exit(1 if wrong else 0)


def _inspect_store(store: str) -> list[InventoryItem]:
    from pipeline.cli.progress import Display

    opened, display = Store.existing(store), Display(stream=sys.stderr)

    def show_progress(done: int, total: int) -> None:
        display.progress("verify", round(done / 1e6, 1), round(total / 1e6, 1), "MB")

    display.start("verify", "every file of every record")
    found = list(inspect(opened, show_progress))
    display.close()
    return found


def _inspect_export(folder: Path) -> list[InventoryItem]:
    from gpt1.weights.manifest import MANIFEST_FILE, DamagedManifest, compare_files, read_manifest

    try:
        return [InventoryItem(*one) for one in compare_files(folder, read_manifest(folder))]
    except DamagedManifest as damage:
        return [InventoryItem("damaged", MANIFEST_FILE, str(damage))]


def gc(store: StoreOption = "store", dry_run: bool = False, unfinished: bool = False) -> None:
    """Delete attempts that no result uses and no run may continue, and other leftovers.

    Args:
        dry_run: List what would go; delete nothing.
        unfinished: Also attempts at unfinished jobs that the last run lacks.
    """
    opened = Store.existing(store)
    last = last_run(opened)
    if unfinished and last is None:
        raise UserError(f"{opened.where}: --unfinished needs the last run's record, which is gone")
    needed = set(last.cells.values()) if last else set()
    leases = Leases(opened, "gc", info=show)
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(leases.alone())
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                show("gpt1: the disk is full, so other runs cannot be kept out", error=True)
            found = list(garbage(opened, leases, unfinished, needed))
            for one in found:
                show(_line(one))
                if not dry_run:
                    remove(opened, one)
    finally:
        leases.release()
    kinds = Counter(one.kind for one in found)
    what = ", ".join(counted(number, kind) for kind, number in kinds.items()) or "nothing"
    show(f"{'would delete' if dry_run else 'deleted'} {what}, {_size(found)}")


def _size(found: list[InventoryItem]) -> str:
    return size(sum(one.size for one in found))


def _line(found: InventoryItem) -> str:
    more = f" ({size(found.size)})" if found.size else ""
    return f"{found.kind}: {found.key}: {found.what}{more}"
