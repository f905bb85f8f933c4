"""A stage that multiplies the sum of its numbers; it fails where it is asked to."""

import os
import time
from pathlib import Path

from pydantic import Field

from stages.contract import Context, Settings, Stage, runtime_field


class TotalSettings(Settings):
    factor: float = Field(1.0, gt=0)
    fail_unless: str = runtime_field("", "Fails until this file exists, and makes it.")
    die: bool = runtime_field(False, "Kills its own process.")
    sleep: float = runtime_field(0.0, "Seconds to take.")


class Total(Stage):
    settings_model = TotalSettings
    requires = ("tests.pipeline.toy.numbers",)

    def run(self, settings: TotalSettings, context: Context) -> None:
        context.info(f"factor {settings.factor:g}")
        time.sleep(settings.sleep)
        marker = Path(settings.fail_unless)
        if settings.fail_unless and not marker.exists():
            marker.touch()
            if settings.die:
                os.kill(os.getpid(), 9)
            raise ZeroDivisionError("failing on purpose")
        numbers = context.input("tests.pipeline.toy.numbers")
        values = [int(context.fetch(file).read_text()) for file in numbers.under("")]
        total = sum(values) * settings.factor
        with context.open("total.txt") as file:
            file.write(f"{total:g}\n".encode())
        context.output("when.txt", volatile=True).write_text(str(time.time()))
        context.log(1, {"total": total})
        context.summary({"total": total})


STAGE = Total()
