"""The exported folder's tokenizer in transformers: our ids, or an error."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1.tasks.glue import FIGURES
from gpt1.tasks.readers import read_task
from gpt1.tasks.table import task_named
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.hf import TOKENIZER, export
from tests.gpt1 import environments
from tests.gpt1 import weight_samples as samples
from tests.gpt1.real_books import learned_vocabulary, shared_books
from tests.gpt1.text.hostile import random_texts, texts
from tests.gpt1.text.test_encoder import HOSTILE

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("code_of_exports")

TRICKY = [
    *HOSTILE,
    "   ",
    "\t\u00a0\u3000",
    "<unk>",
    "a <unk> b<unk>c </s> <s> <pad> <|endoftext|> [CLS]",
    "It wasn't; he'd've said: \"don't!\"\r\n\r\n  I'm—we're…",
    "a < b &amp; c\n&amp; d",
    "&amp; before\n<i>then</i> &eacute;",
    "zero\u200bwidth\u200d joined\u2060 \ufeffmark soft\u00adhy\u00adphen",
    "donaudampfschifffahrtsgesellschaft" * 40,
]
ENCODE = """
import json, sys
from transformers import AutoTokenizer

try:
    AutoTokenizer.from_pretrained(sys.argv[1])
except Exception:
    pass
else:
    sys.exit("no error without trust_remote_code")
encode = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True).encode
json.dump([encode(text) for text in json.load(open("texts.json"))], open("ids.json", "w"))
"""
OUTSIDE = """
import json, sys
sys.modules["gpt1"] = None  # to import it would raise
from transformers import AutoTokenizer, pipeline

for load in (AutoTokenizer.from_pretrained, lambda folder: pipeline("text-generation", folder)):
    try:
        load(sys.argv[1])
    except Exception:
        continue
    sys.exit("no error without trust_remote_code")
write = pipeline("text-generation", sys.argv[1], trust_remote_code=True)
write("It wasn't", max_new_tokens=3)
ids = [write.tokenizer.encode(text) for text in json.load(open("texts.json"))]
json.dump(ids, open("ids.json", "w"))
"""


def exported(folder: Path, vocabulary: Vocabulary) -> Any:
    """The tokenizer of a model exported into `folder`, as a user loads it."""
    export(folder, samples.model(vocabulary_size=vocabulary.size, width=8), vocabulary, "card")
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported") / "my.gpt-1"


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[TextEncoder, Any]:
    """Our encoder, and the exported tokenizer of the same vocabulary."""
    vocabulary = learned_vocabulary()
    return TextEncoder(vocabulary), exported(folder, vocabulary)


def run_outside(python: str, code: str, folder: Path, here: Path) -> str:
    """What a process without a terminal writes to its standard error; it must succeed."""
    done = subprocess.run(
        [python, "-c", code, str(folder)],
        cwd=here,
        env={**os.environ, "HF_HOME": str(here)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def glue_dev_texts(shared: Path, here: Path) -> list[str]:
    """The texts of all GLUE dev sets."""
    with tarfile.open(shared / "data" / "tasks" / "glue.tar.xz") as archive:
        archive.extractall(here, filter="data")
    return [text for name in FIGURES for example in read_task(task_named(name), here)["dev"].examples for text in example.texts]


def assert_same(ours: TextEncoder, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert theirs(text)["input_ids"] == theirs.encode(text) == ids
    assert theirs.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_text_has_our_ids(text: str, both: tuple[TextEncoder, Any]) -> None:
    assert_same(*both, text)


@settings(max_examples=200, deadline=None)
@given(text=texts())
def test_any_text_has_our_ids(text: str, both: tuple[TextEncoder, Any]) -> None:
    assert_same(*both, text)


@settings(deadline=None)
@given(data=st.data())
def test_any_ids_have_our_text(data: st.DataObject, both: tuple[TextEncoder, Any]) -> None:
    ours, theirs = both
    ids = data.draw(st.lists(st.integers(0, ours.vocabulary.size - 1), max_size=30))
    assert theirs.decode(ids) == ours.decode(ids)


def test_ids_outside_the_vocabulary_are_refused(both: tuple[TextEncoder, Any]) -> None:
    ours, theirs = both
    for number in (-1, ours.vocabulary.size):
        with pytest.raises(ValueError, match=f"id {number} is not in the vocabulary of"):
            theirs.decode([number])


def test_unk_stands_for_every_special_token(both: tuple[TextEncoder, Any]) -> None:
    ours, theirs = both
    assert {theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id} == {0}
    assert theirs.all_special_ids == [0]
    assert len(theirs) == ours.vocabulary.size
    assert theirs.model_max_length == 16
    found = theirs(["the ship", "the"], padding=True)
    assert found.keys() == {"input_ids", "attention_mask"}
    long, short = map(ours.encode, ("the ship", "the"))
    rest = len(long) - len(short)
    assert found["input_ids"] == [long, short + [0] * rest]
    assert found["attention_mask"][1] == [1] * len(short) + [0] * rest


def test_what_transformers_saves_loads_again(folder: Path, both: tuple[TextEncoder, Any], tmp_path: Path) -> None:
    ours, theirs = both
    theirs.save_pretrained(tmp_path)
    for name in theirs.vocab_files_names.values():
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    again = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    for text in TRICKY:
        assert again.encode(text) == ours.encode(text)


def test_without_this_package_and_without_a_terminal(folder: Path, both: tuple[TextEncoder, Any], tmp_path: Path) -> None:
    """A process that cannot ask raises without the flag, and with it warns of nothing.

    GPT1_TRANSFORMERS_PYTHON names the Python of another environment, with other versions.
    """
    (tmp_path / "texts.json").write_text(json.dumps(TRICKY))
    python = os.environ.get("GPT1_TRANSFORMERS_PYTHON", sys.executable)
    said = run_outside(python, OUTSIDE, folder, tmp_path)
    ids = [both[0].encode(text) for text in TRICKY]
    assert json.loads((tmp_path / "ids.json").read_text()) == ids
    assert "max_length" not in said
    assert "token_id" not in said


@pytest.mark.parametrize("missing", ["ftfy", "spacy"])
def test_what_it_needs_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs ftfy and spaCy \(.*{missing}.*pip install ftfy"):
        runpy.run_path(str(TOKENIZER))


def test_a_folder_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    exported(tmp_path, samples.vocabulary())
    (tmp_path / "vocab_gpt1.bpe").unlink()
    with pytest.raises(ValueError, match=r"vocab_gpt1\.bpe must be in the folder"):
        transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)


@pytest.mark.slow
def test_books_and_glue_have_our_ids(shared: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(shared / "gpt1_bpe")
    ours, theirs = TextEncoder(vocabulary), exported(tmp_path / "hf", vocabulary)
    for text in [*shared_books(shared, 5_000_000), *glue_dev_texts(shared, tmp_path), *random_texts(7, 5_000)]:
        assert_same(ours, theirs, text)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["4.50.0", "5.23.0"])
def test_books_and_glue_have_our_ids_in_an_environment_of_their_own(version: str, shared: Path, tmp_path: Path) -> None:
    """The lowest and the highest version that is supported, without this package, without a terminal."""
    packages = (f"transformers=={version}", "ftfy==6.3.1", "spacy==3.8.18")
    python = environments.make(tmp_path / "environment", *packages)
    vocabulary = Vocabulary.load(shared / "gpt1_bpe")
    export(tmp_path / "hf", samples.model(vocabulary_size=vocabulary.size, width=8), vocabulary, "card")
    texts = [*shared_books(shared, 5_000_000), *glue_dev_texts(shared, tmp_path)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    run_outside(str(python), ENCODE, tmp_path / "hf", tmp_path)
    found = json.loads((tmp_path / "ids.json").read_text())
    encode = TextEncoder(vocabulary).encode
    assert len(found) == len(texts)
    assert [text for text, ids in zip(texts, found, strict=True) if ids != encode(text)] == []
