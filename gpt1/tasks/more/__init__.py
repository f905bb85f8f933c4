"""Tasks beyond the table: every module here that has a `TASK` adds one (docs/how-to/task.md)."""
