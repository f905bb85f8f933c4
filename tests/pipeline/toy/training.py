"""A stage that counts, as a training takes steps: asked to stop, it saves where it is."""

import multiprocessing
import signal
import subprocess
import time

from gpt1.errors import StoppedError
from stages.contract import Context, Settings, Stage, runtime_field


class TrainingSettings(Settings):
    steps: int = 20
    pause: float = runtime_field(0.1, "Seconds a step takes.")
    deaf: bool = runtime_field(False, "It asks whether to stop, and does not.")


class Training(Stage):
    settings_model = TrainingSettings
    gang_scheduled = True
    requires = ("tests.pipeline.toy.numbers",)

    def run(self, settings: TrainingSettings, context: Context) -> None:
        end_what_it_starts()
        saved = [int(path.read_text()) for path in context.previous_attempts("saved")]
        first = max(saved, default=0)
        context.info(f"from step {first}")
        for step in range(first, settings.steps):
            if context.should_stop() and not settings.deaf:
                (context.attempt / "saved").write_text(str(step))
                raise StoppedError("stopped; saved a checkpoint")
            time.sleep(settings.pause)
            context.log(step + 1, {"loss": 1 / (step + 1)})
            context.progress(step + 1, settings.steps, "steps")
        context.output("steps.txt").write_text(f"{settings.steps}\n")
        context.summary({"steps": settings.steps})


def end_what_it_starts() -> None:
    """As anywhere, by SIGTERM, which workers do not listen to."""
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    fork.start()
    fork.terminate()
    fork.join(10)
    assert program.wait(10) == fork.exitcode == -signal.SIGTERM


STAGE = Training()
