"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

StoreOption = Annotated[
    str, typer.Option("--store", "-s", help="Where all results are: a folder, or s3://BUCKET/FOLDER.", envvar="GPT1_STORE")
]
