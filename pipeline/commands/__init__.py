"""Commands of `gpt1` that are more than running the workflow, one file each, added to the
application by pipeline/cli.py.
"""
