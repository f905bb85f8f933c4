"""A stage that reads numbers from files, one part a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from stages.contract import Context, ExternalFile, Output, Part, Settings, Stage, runtime_field


class NumbersSettings(Settings):
    source: str = runtime_field("numbers", "A folder of .txt files with a number each.")
    add: int = 0
    pause: float = runtime_field(0.0, "Seconds a part takes.")


class Numbers(Stage):
    settings_model = NumbersSettings
    is_coordinator = True

    @classmethod
    def external_files(cls, settings: NumbersSettings) -> list[ExternalFile]:
        folder = Path(settings.source)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        return [ExternalFile(path.name, path) for path in sorted(folder.glob("*.txt"))]

    def run(self, settings: NumbersSettings, context: Context) -> None:
        parts = []
        for file in context.external_files:
            place = {"path": str(file.path), "name": file.name, "pause": settings.pause}
            made_of = {"text": file.path.read_text(), "add": settings.add}
            parts.append(Part(file.name, made_of, {"add": settings.add, **place}))
        made = context.map_parts(read_number, parts)
        for part in made:
            context.add_files_of(part)
        context.summary({"total": sum(part.summary["value"] for part in made)})


def read_number(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    import time

    time.sleep(arguments["pause"])
    text = Path(arguments["path"]).read_text()
    if not text.strip().isdigit():
        raise UserError(f"{arguments['name']}: expected a number, found {text.strip()!r}")
    value = int(text) + arguments["add"]
    with output.open(f"{arguments['name']}.value") as file:
        file.write(str(value).encode())
    return {"value": value}


STAGE = Numbers()
