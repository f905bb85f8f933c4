"""The exported folder in transformers and in lm-evaluation-harness: our ids, or an error."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1.tasks.metrics import GLUE_METRICS
from gpt1.tasks.readers import read_task
from gpt1.tasks.registry import task_named
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights.hf import TOKENIZER, export
from tests.conftest import write
from tests.gpt1 import weight_samples as samples
from tests.gpt1.real_books import learned_vocabulary, shared_books
from tests.gpt1.tokenizer.hostile import random_texts, texts
from tests.gpt1.tokenizer.test_tokenizer import HOSTILE

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("code_of_exports")

TRICKY = [
    *HOSTILE, "   ", "\t\u00a0\u3000", "<unk>",
    "a <unk> b<unk>c </s> <s> <pad> <|endoftext|> [CLS]",
    "It wasn't; he'd've said: \"don't!\"\r\n\r\n  I'm—we're…", "a < b &amp; c\n&amp; d",
    "&amp; before\n<i>then</i> &eacute;",
    "zero\u200bwidth\u200d joined\u2060 \ufeffmark soft\u00adhy\u00adphen",
    "donaudampfschifffahrtsgesellschaft" * 40,
]
Both = tuple[Tokenizer, Any]
OUTSIDE = """
import importlib.util, json, sys
sys.modules["gpt1"] = None  # to import it would raise
from transformers import AutoTokenizer, pipeline

folder, has_torch = sys.argv[1], importlib.util.find_spec("torch") is not None
loads = [AutoTokenizer.from_pretrained]
loads += [lambda folder, **more: pipeline("text-generation", folder, **more)] if has_torch else []
for load in loads:
    try:
        load(folder)
    except Exception:
        continue
    sys.exit("no error without trust_remote_code")
tokenizer = loads[-1](folder, trust_remote_code=True)
if has_torch:
    tokenizer("It wasn't", max_new_tokens=3)
    tokenizer = tokenizer.tokenizer
json.dump([tokenizer.encode(text) for text in json.load(open("texts.json"))], open("ids.json", "w"))
"""


def exported(folder: Path, vocabulary: Vocabulary) -> Any:
    """The tokenizer of a model exported into `folder`, as a user loads it."""
    export(folder, samples.model(vocabulary_size=vocabulary.size, width=8), vocabulary, "card")
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Our encoder, and the exported tokenizer of the same vocabulary."""
    vocabulary = learned_vocabulary()
    return Tokenizer(vocabulary), exported(tmp_path_factory.mktemp("my.gpt-1"), vocabulary)


def run_outside(command: list[Any], here: Path, **variables: str) -> str:
    """What a process without a terminal, which succeeds, says on stderr."""
    done = subprocess.run(
        command, cwd=here, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
        start_new_session=True, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def assert_same_outside(python: str | Path, shared: Path, here: Path, given: list[str]) -> None:
    """A process that has not our code gives the published vocabulary's ids, without a warning."""
    vocabulary = Vocabulary.load(shared / "gpt1_bpe")
    exported(here / "my.gpt-1", vocabulary)
    (here / "texts.json").write_text(json.dumps(given))
    said = run_outside([python, "-c", OUTSIDE, here / "my.gpt-1"], here, HF_HOME=str(here))
    assert not re.search("max_length|token_id", said)
    found = json.loads((here / "ids.json").read_text())
    assert found == list(map(Tokenizer(vocabulary).encode, given))


def environment(folder: Path, *packages: str, see_ours: bool = False) -> Path:
    """The Python of a new environment with these packages; skips where they cannot be installed."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    if see_ours:  # torch is large; this project, which a .pth file there names, is not found
        [place] = folder.glob("lib/python*/site-packages")
        (place / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *packages]
    done = subprocess.run(pip, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=900)
    if done.returncode:
        pytest.skip(f"{packages} cannot be installed here: {done.stderr[-300:]!r}")
    return python


def books_and_glue(shared: Path, here: Path, size: int) -> list[str]:
    """About `size` bytes of books, and the texts of all GLUE dev sets."""
    shutil.unpack_archive(shared / "data/tasks/glue.tar.xz", here, filter="data")
    sets = [read_task(task_named(name), here)["dev"].examples for name in GLUE_METRICS]
    glue = [text for examples in sets for example in examples for text in example.texts]
    return [*shared_books(shared, size), *glue]


def assert_same(ours: Tokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert theirs(text)["input_ids"] == theirs.encode(text) == ids
    assert theirs.decode(ids) == ours.decode(ids)


@settings(deadline=None)
@given(text=texts(), data=st.data())
def test_any_text_has_our_ids(text: str, data: st.DataObject, both: Both) -> None:
    assert_same(*both, text)
    ours, theirs = both
    ids = data.draw(st.lists(st.integers(0, ours.vocabulary.size - 1), max_size=30))
    assert theirs.decode(ids) == ours.decode(ids)
    for number in (-1, ours.vocabulary.size):
        with pytest.raises(ValueError, match=f"id {number} is not in the vocabulary of"):
            theirs.decode([number])


def test_unk_is_every_special_token(both: Both) -> None:
    ours, theirs = both
    assert theirs.get_vocab() == ours.vocabulary.ids
    assert {theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id} == {0}
    assert (len(theirs), theirs.model_max_length) == (ours.vocabulary.size, 16)
    long, short = map(ours.encode, ("the ship", "the"))
    rest = [0] * (len(long) - len(short))
    masks = [[1] * len(long), [1] * len(short) + rest]
    padded = {"input_ids": [long, short + rest], "attention_mask": masks}
    assert theirs(["the ship", "the"], padding=True) == padded


def test_tricky_text_has_our_ids_and_what_is_saved_loads(both: Both, tmp_path: Path) -> None:
    ours, theirs = both
    theirs.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    for text in TRICKY:
        assert_same(ours, theirs, text)
        assert again.encode(text) == ours.encode(text)
    assert Vocabulary.load(tmp_path).sha256 == ours.vocabulary.sha256


@pytest.mark.slow
def test_books_and_glue_have_our_ids(shared: Path, tmp_path: Path) -> None:
    """A sample, in a process without this package and without a terminal.

    GPT1_TRANSFORMERS_PYTHON names the Python of another environment, with other versions.
    """
    python = os.environ.get("GPT1_TRANSFORMERS_PYTHON", sys.executable)
    sample = [*TRICKY, *books_and_glue(shared, tmp_path, 1_000_000)[::5], *random_texts(7, 1_000)]
    assert_same_outside(python, shared, tmp_path, sample)


@pytest.mark.chaos
@pytest.mark.parametrize("version", ["4.50.0", "5.23.0"])
def test_all_books_in_an_environment(version: str, shared: Path, tmp_path: Path) -> None:
    """The lowest and the highest version that is supported."""
    packages = (f"transformers=={version}", "ftfy==6.3.1", "spacy==3.8.18")
    python = environment(tmp_path / "environment", *packages)
    sample = [*books_and_glue(shared, tmp_path, 5_000_000), *random_texts(7, 5_000)]
    assert_same_outside(python, shared, tmp_path, sample)


@pytest.mark.parametrize("missing", ["ftfy", "spacy"])
def test_what_it_needs_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs ftfy and spaCy \(.*{missing}.*pip install ftfy"):
        runpy.run_path(str(TOKENIZER))


def test_a_folder_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    exported(tmp_path, samples.vocabulary())
    (tmp_path / "vocab_gpt1.bpe").unlink()
    with pytest.raises(ValueError, match=r"vocab_gpt1\.bpe in the folder"):
        transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)


DOCUMENTS = [
    ("It wasn't the first time.", " The old man had gone."),
    ("She said that it was a dark night", ", and he didn't answer."),
    ("The captain's café:", "\nit was closed — for the winter…"),
    ("", "It was the best of times."),  # after the beginning-of-text token
]
@pytest.mark.chaos
def test_lm_evals_log_likelihoods_are_our_own(tmp_path: Path) -> None:
    packages = ("lm_eval[hf]==0.4.13", "transformers==5.23.0")
    python = environment(tmp_path / "environment", *packages, see_ours=True)
    vocabulary = learned_vocabulary()
    model = samples.model(vocabulary_size=vocabulary.size, width=16, context=64)
    export(tmp_path / "hf", model, vocabulary, "card")
    rows = [json.dumps({"context": one, "continuation": other}) for one, other in DOCUMENTS]
    file = tmp_path / "documents.jsonl"
    file.write_text("\n".join(rows) + "\n")
    task = {
        "dataset_kwargs": {"data_files": {"test": str(file)}}, "target_delimiter": "",
        "task": "books", "dataset_path": "json", "test_split": "test",
        "output_type": "loglikelihood", "doc_to_text": "{{context}}",
        "doc_to_target": "{{continuation}}", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    write(tmp_path, {"tasks/books.yaml": json.dumps(task)})  # JSON is YAML
    arguments = f"pretrained={tmp_path / 'hf'},trust_remote_code=True,dtype=float32"
    command = [
        python, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--tasks", "books",
        "--include_path", tmp_path / "tasks", "--device", "cpu", "--batch_size", "1",
        "--output_path", tmp_path / "out", "--log_samples",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    run_outside(command, tmp_path, **offline)
    [file] = (tmp_path / "out").rglob("samples_books_*.jsonl")
    answers = sorted(map(json.loads, file.read_text().splitlines()), key=lambda one: one["doc_id"])
    encode, expected = Tokenizer(vocabulary).encode, []
    for before, after in DOCUMENTS:
        given = encode(before) or [0]
        ids = encode(before + after) if before else [0, *encode(after)]
        with torch.no_grad():
            logits = model.vocabulary_logits(model(torch.tensor([ids[:-1]])))
        scores = torch.log_softmax(logits[0], -1)
        expected.append(sum(float(scores[n - 1, ids[n]]) for n in range(len(given), len(ids))))
    assert [float(one["filtered_resps"][0][0]) for one in answers] == pytest.approx(expected, 1e-4)
