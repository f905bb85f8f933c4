"""Commands of `gpt1` that are larger than a call: one a file, added to the application by pipeline/cli.py."""
