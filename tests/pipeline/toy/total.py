"""A stage that multiplies the sum of its numbers; it fails where it is asked to."""

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

from pydantic import Field

from stages.contract import Context, Settings, Stage, runtime_field


class TotalSettings(Settings):
    factor: float = Field(1.0, gt=0)
    fail_unless: str = runtime_field("", "Fails until this file exists, and makes it.")
    die: bool = runtime_field(False, "Kills its own process.")
    starts: bool = runtime_field(False, "Starts programs, and ends them.")
    sleep: float = runtime_field(0.0, "Seconds to take.")


class Total(Stage):
    settings_model = TotalSettings
    requires = ("tests.pipeline.toy.numbers",)

    def run(self, settings: TotalSettings, context: Context) -> None:
        context.info(f"factor {settings.factor:g}")
        time.sleep(settings.sleep)
        if settings.starts:
            end_what_it_starts()
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


def end_what_it_starts() -> None:
    """As anywhere, by SIGTERM, which workers do not listen to."""
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    fork.start()
    fork.terminate()
    fork.join(10)
    assert program.wait(10) == fork.exitcode == -signal.SIGTERM


STAGE = Total()
