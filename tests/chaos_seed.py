"""The one seed of all that `make chaos` draws at random: SEED, or drawn now and printed."""

import os
import random
import secrets

SEED = int(os.environ.get("SEED") or secrets.randbelow(1_000_000))


def draw_for(name: str) -> random.Random:
    """The random numbers of one test, the same whichever tests run before it."""
    print(f"SEED={SEED}")
    return random.Random(f"{SEED} {name}")
