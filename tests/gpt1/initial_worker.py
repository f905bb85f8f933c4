"""Run by test_train_initial.py under torchrun: pre-training whose ranks find given weights in different folders.

Arguments: run.json, and the folder of each rank.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from gpt1.errors import UserError
from gpt1.train.pretrain import pretrain
from gpt1.train.pretrain_config import from_json
from gpt1.train.ranks import Ranks
from gpt1.train.reporter import PrintReporter

config, place = from_json(Path(sys.argv[1]))
ranks = Ranks.connect("cpu", threads=1)
try:
    pretrain(config, dataclasses.replace(place, init_from=sys.argv[2 + ranks.rank]), PrintReporter())
except UserError as error:
    print(f"rank {ranks.rank} ended with: {error}", flush=True)
ranks.leave()
