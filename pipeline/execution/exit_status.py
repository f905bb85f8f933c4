"""How `gpt1 run` ends: 0, a stage failed, invalid input or settings, locked by another run, or
asked to end. A signal before there is anything to save ends it with 128 + its number.
"""

DONE, FAILED, INVALID, HELD, INTERRUPTED = 0, 1, 2, 3, 130
