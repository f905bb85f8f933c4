"""A stage that logs a curve and continues from what an earlier attempt saved; it makes a part of
each number in `source`, and sums these and the values of the jobs it needs.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt1.errors import StoppedError
from stages.contract import Context, ExternalFile, Output, Part, Settings, Stage, runtime_field

METRIC, CURVE, VALUE, SAVED = "height", "curve.json", "value.txt", "saved.json"
EVERY = 5  # steps between two saves


class CurveSettings(Settings):
    seed: int = 0
    steps: int = 5
    source: str = runtime_field("", "A folder of .txt files with a number each.")
    pause: float = runtime_field(0.0, "Seconds a step or a part takes.")
    processes: str = runtime_field("", "A folder in which each process leaves a file, by its PID.")
    deaf: bool = runtime_field(False, "It asks whether to stop, and does not.")


class Curve(Stage):
    settings_model = CurveSettings
    optional_inputs = ("*",)
    is_coordinator = True
    gang_scheduled = True  # it saves when it is asked to stop

    @classmethod
    def external_files(cls, settings: CurveSettings) -> list[ExternalFile]:
        found = sorted(Path(settings.source).glob("*.txt")) if settings.source else []
        return [ExternalFile(path.name, path) for path in found]

    def run(self, settings: CurveSettings, context: Context) -> None:
        leave_pid(settings.processes)
        common = {"pause": settings.pause, "processes": settings.processes}
        parts = [
            Part(file.name, {"digest": file.digest}, {"path": str(file.path), **common})
            for file in context.external_files
        ]
        made = context.map_parts(read_number, parts) if parts else []
        for part in made:
            context.add_files_of(part)
        total = settings.seed + sum(part.summary["value"] for part in made)
        for needed in context.inputs():
            paths = {f.name: context.fetch(f) for f in needed.files.values() if not f.volatile}
            total += int(paths[VALUE].read_text()) if VALUE in paths else 0
        heights = read_saved(context.previous_attempts(SAVED))
        context.info(f"from step {len(heights)}")
        for step in range(len(heights) + 1, settings.steps + 1):
            time.sleep(settings.pause)
            heights.append(total / step)
            context.log(step, {METRIC: heights[-1]})
            context.progress(step, settings.steps, "steps")
            stop = context.should_stop() and not settings.deaf
            if stop or step % EVERY == 0:
                save(context.attempt / SAVED, heights)
            if stop:
                raise StoppedError(f"stopped on request after step {step}; saved the curve")
        with context.open(CURVE) as file:
            file.write(json.dumps({METRIC: dict(enumerate(heights, 1))}).encode())
        with context.open(VALUE) as file:
            file.write(str(total).encode())
        context.output("when.txt", volatile=True).write_text(str(time.time()))
        context.summary({"total": total})


def read_number(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """A part: a number, as a file of its own."""
    leave_pid(arguments["processes"])
    time.sleep(arguments["pause"])
    path = Path(arguments["path"])
    with output.open(f"{path.name}.value") as file:
        file.write(path.read_bytes())
    return {"value": int(path.read_text())}


def leave_pid(folder: str) -> None:
    """Let those who look for what a killed run leaves behind find this process."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / str(os.getpid())).touch()


def save(path: Path, heights: list[float]) -> None:
    """Write the curve so far, complete or not at all, with its sha256."""
    text, private = json.dumps(heights), path.with_suffix(".new")
    private.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
    private.replace(path)


def read_saved(paths: list[Path]) -> list[float]:
    """The longest curve that was saved; files that are damaged are passed over."""
    found: list[list[float]] = [[]]
    for path in paths:
        sha256, _, text = path.read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() == sha256:
            found.append(json.loads(text))
    return max(found, key=len)


STAGE = Curve()
