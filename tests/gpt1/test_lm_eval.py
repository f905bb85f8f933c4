"""lm-evaluation-harness gives an exported folder the log-likelihoods of the model itself."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from gpt1.text.encoder import TextEncoder
from gpt1.weights.hf import export
from tests.gpt1 import environments
from tests.gpt1 import weight_samples as samples
from tests.gpt1.real_books import learned_vocabulary

PACKAGES = ("lm_eval[hf]==0.4.13", "transformers==5.23.0")
DOCUMENTS = [
    ("It wasn't the first time.", " The old man had gone."),
    ("She said that it was a dark night", ", and he didn't answer."),
    ("The captain's café:", "\nit was closed — for the winter…"),
    ("", "It was the best of times."),  # after the beginning-of-text token
]
TASK = """
task: books
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{continuation}}"
target_delimiter: ""
metric_list: [{metric: perplexity}, {metric: acc}]
"""


@pytest.mark.chaos
def test_log_likelihoods_are_our_own(tmp_path: Path) -> None:
    python = environments.make(tmp_path / "environment", *PACKAGES, see_ours=True)
    vocabulary = learned_vocabulary()
    model = samples.model(vocabulary_size=vocabulary.size, width=16, context=64)
    export(tmp_path / "hf", model, vocabulary, "card")
    rows = [json.dumps({"context": one, "continuation": other}) for one, other in DOCUMENTS]
    file = tmp_path / "documents.jsonl"
    file.write_text("\n".join(rows) + "\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "books.yaml").write_text(TASK.replace("FILE", str(file)))
    arguments = f"pretrained={tmp_path / 'hf'},trust_remote_code=True,dtype=float32"
    command = [
        python, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--tasks", "books",
        "--include_path", tmp_path / "tasks", "--device", "cpu", "--batch_size", "1",
        "--output_path", tmp_path / "out", "--log_samples",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **offline}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [file] = (tmp_path / "out").rglob("samples_books_*.jsonl")
    answers = sorted(map(json.loads, file.read_text().splitlines()), key=lambda one: one["doc_id"])
    encode, expected = TextEncoder(vocabulary).encode, []
    for before, after in DOCUMENTS:
        given = encode(before) or [0]
        ids = encode(before + after) if before else [0, *encode(after)]
        with torch.no_grad():
            logits = model.vocabulary_logits(model(torch.tensor([ids[:-1]])))
        scores = torch.log_softmax(logits[0], -1)
        expected.append(sum(float(scores[n - 1, ids[n]]) for n in range(len(given), len(ids))))
    found = [float(one["filtered_resps"][0][0]) for one in answers]
    assert found == pytest.approx(expected, rel=1e-4)
