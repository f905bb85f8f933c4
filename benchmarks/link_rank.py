"""One rank of benchmarks/link.py: updates of a small model, timed, and what its host sent.

Arguments: ZeRO stage, updates.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LanguageModelling
from gpt1.rng import generator
from gpt1.train.config import PretrainConfig
from gpt1.train.dist import DistContext
from gpt1.train.engine import MicroBatch
from gpt1.train.trainer import make_engine

SHAPE = ModelConfig(vocabulary=8000, context=16, width=256, layers=2, heads=4)
"""Many parameters and little to compute, so that the traffic shows."""


def sent() -> int:
    """Bytes that left this host by eth0 since it was set up, headers included."""
    line = next(
        line
        for line in Path("/proc/net/dev").read_text().splitlines()
        if line.strip().startswith("eth0:")
    )
    return int(line.split(":")[1].split()[8])


def main() -> None:
    """Two updates to warm up, then those that count; one line of JSON."""
    stage, updates = int(sys.argv[1]), int(sys.argv[2])
    ranks = DistContext.connect("cpu", threads=1)
    config = PretrainConfig(batch_size=2 * ranks.world, micro_batch_size=1, zero=stage)
    module = LanguageModelling(GPT(SHAPE, generator("weights", 0)))
    engine = make_engine(module, config, ranks)
    ids = torch.arange(SHAPE.context + 1)[None]
    batch = [MicroBatch(index, (ids,)) for index in range(2)]
    for step in range(2):
        engine.step(step, batch, 1e-4)
    ranks.barrier()
    before, began = sent(), time.monotonic()
    for step in range(2, 2 + updates):
        engine.step(step, batch, 1e-4)
    ranks.barrier()
    seconds, bytes_ = (time.monotonic() - began) / updates, (sent() - before) / updates
    print(json.dumps({"rank": ranks.rank, "seconds": seconds, "sent": bytes_}), flush=True)
    ranks.destroy()


if __name__ == "__main__":
    main()
