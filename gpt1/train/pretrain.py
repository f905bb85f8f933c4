"""Pre-training under `torchrun`:

torchrun --nproc-per-node 2 -m gpt1.train.pretrain --config FILE
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpt1.errors import UserError
from gpt1.terminal import show
from gpt1.train.config import from_json
from gpt1.train.dist import DistContext, Stopped
from gpt1.train.trainer import ConsoleReporter, pretrain


def main() -> int:
    """The command line of `torchrun -m gpt1.train.pretrain`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", type=Path, required=True,
        help="JSON written by gpt1.train.config.to_json",
    )
    arguments = parser.parse_args()
    try:
        pretrain(*from_json(arguments.config), ConsoleReporter())
    except UserError as error:
        show(f"error: {error}", error=True)
        return 2
    except Stopped as stopped:
        if DistContext.connect().is_main:
            show(str(stopped))
    DistContext.connect().destroy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
