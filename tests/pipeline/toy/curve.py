"""A stage that draws a curve, and says in a file how far it is."""

from __future__ import annotations

import time
from pathlib import Path

from stages.contract import Context, Settings, Stage, placement


class CurveSettings(Settings):
    steps: int = 200
    pause: float = placement(0.0, "Seconds a step takes.")
    progress: str = placement("", "A file for the number of the step.")


class Curve(Stage):
    settings_model = CurveSettings

    def run(self, settings: CurveSettings, context: Context) -> None:
        for step in range(1, settings.steps + 1):
            context.log(step, {"loss": 1 / step})
            Path(settings.progress).write_text(str(step))
            time.sleep(settings.pause)
        context.output("done.txt", volatile=False).write_text("done")


STAGE = Curve()
