"""Which files of gpt1/ and stages/ some work passes through: `python -m tests.path step|book|job`.

    step   the first optimizer step of a pre-training, with its checkpoint
    book   text files to a batch: ingest, clean, split, vocabulary, shard, and the reading of shards
    job    one fine-tuning job, from examples whose ids are there to its scores

Each runs in this process without Ray, on made-up data, with the default settings but for the
sizes. A file counts when one of its functions is called, in any thread; what an import runs, and
methods that `dataclass` makes, do not count, nor do gpt1/errors.py, gpt1/terminal.py (which prints)
and `__init__.py`. pipeline/, which runs any stage in the same way, is not on these paths, nor is
what it alone calls in gpt1/. Prints the files in the order of their
first call; the last line is a JSON object.
"""

import argparse
import inspect
import json
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import yaml

from gpt1.corpus.document import Read, ReadingConfig, SourceFile
from gpt1.corpus.readers import read_source
from tests.conftest import ROOT, write
from tests.gpt1.tiny_pretraining import CONFIG, VOCABULARY, changed, write_data
from tests.pipeline.inline import artifact, make, output, plan_of, run_inline, write_rte

FOLDERS = ("gpt1", "stages")
NOT_COUNTED = ("/errors.py", "/terminal.py", "/__init__.py")
Work = Callable[[], object]


def called_files(work: Work) -> list[str]:
    """The files of the functions that `work` calls, relative to the project, in that order."""
    found: dict[str, None] = {}
    folders, runner = tuple(f"{ROOT / folder}/" for folder in FOLDERS), f"{ROOT}/pipeline/"

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code, name = frame.f_code, frame.f_code.co_filename
        # Bodies of modules and classes are no functions: they are not optimized.
        is_function = event == "call" and code.co_flags & inspect.CO_OPTIMIZED
        counts = is_function and name.startswith(folders) and not name.endswith(NOT_COUNTED)
        caller = frame.f_back.f_code.co_filename if frame.f_back else ""
        if caller == name:  # a comprehension, say, of a function that counts or does not
            return
        of_pipeline = caller.startswith(runner) and name.startswith(folders[0])
        if counts and name not in found and not of_pipeline and not is_import(frame):
            found[name] = None

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return [str(Path(name).relative_to(ROOT)) for name in found]


def is_import(frame: FrameType | None) -> bool:
    """Whether `frame` belongs to an import under way."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def prepare_step(folder: Path) -> Work:
    """The work of `step`."""
    from gpt1.train.dist import Stopped
    from gpt1.train.trainer import ConsoleReporter, pretrain

    place = changed(write_data(folder), stop_after=1)
    config = CONFIG.model_copy(update={"validate_every": 0})  # none before the step

    def work() -> None:
        with suppress(Stopped):
            pretrain(config, place, ConsoleReporter())
        assert list(Path(place.output).glob("checkpoints/step-*1/*")), "no checkpoint was made"

    return work


def prepare_book(folder: Path) -> Work:
    """The work of `book`."""
    books = folder / "books"
    write(books, {f"book {number}.txt": prose(number) for number in range(4)})
    workflow = write_workflow(
        folder,
        ingest={"with": {"source": str(books), "num_partitions": 1}}, clean={"needs": ["ingest"]},
        split={"needs": ["clean"], "with": {"held_out": 0.5}},
        vocabulary={"needs": ["clean", "split"], "with": {"num_merges": 50}},
        shard={"needs": ["clean", "split", "vocabulary"]},
    )  # fmt: skip

    def work() -> None:
        from gpt1.data.sequences import SequenceSampler
        from gpt1.data.shards import Shards

        plan = plan_of(workflow, folder / "store")
        with patch("stages.ingest.read_isolated", read_here):
            run_inline(plan)
        shard = artifact(plan, "shard")
        files = [Path(file.key) for file in shard.under("train/")]
        shards = Shards.open(files, output(shard, "books.parquet"), "train")
        SequenceSampler(shards, 8, seed=0).batch(0, 2)

    return work


def read_here(files: Sequence[SourceFile], config: ReadingConfig, *_: object) -> Read:
    """What ingest reads in a child process, where no call would be seen."""
    for file in files:
        yield from read_source(file, config)


def prepare_job(folder: Path) -> Work:
    """The work of `job`."""
    from gpt1.model.config import ModelConfig
    from gpt1.model.gpt import GPT
    from gpt1.rng import generator
    from gpt1.weights.store import save_model

    model = folder / "model"
    config = ModelConfig(VOCABULARY.size, context=16, width=16, layers=2, heads=2)
    save_model(model, GPT(config, generator("weights", 0)))
    VOCABULARY.save(model)
    write_rte(folder, 8)
    rte, needs = {"task": "rte"}, ["pretrained", "task_data", "encode"]
    workflow = write_workflow(
        folder, pretrained={"with": {"checkpoint": str(model)}},
        task_data={"with": {**rte, "source": str(folder)}},
        encode={"needs": needs[:2], "with": rte},
        finetune={"needs": needs, "with": {**rte, "epochs": 1, "batch_size": 4}},
    )  # fmt: skip
    plan = plan_of(workflow, folder / "store")
    *before, job = plan.to_run
    for entry in before:
        make(plan, entry)
    return lambda: make(plan, job)


def prose(seed: int) -> str:
    """A made-up English book, long enough to be kept."""
    draw = random.Random(seed)
    nouns = [first + last for first in ("har", "wind", "rain") for last in ("bour", "mill", "fall")]
    words = [nouns, ["the", "of", "and", "to", "in", "was", "that", "it", "had", "with", "her"]]
    sentences = (" ".join(draw.choice(words[n % 2]) for n in range(12)) for _ in range(100))
    return "\n\n".join(f"{sentence.capitalize()}." for sentence in sentences)


def write_workflow(folder: Path, **stages: object) -> Path:
    """A workflow of these stages."""
    return write(folder, {"workflow.yaml": yaml.safe_dump({"stages": stages})}) / "workflow.yaml"


PATHS = {"step": prepare_step, "book": prepare_book, "job": prepare_job}


def main() -> None:
    """Print the files and the JSON object; what the work prints goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("path", choices=PATHS)
    path = parser.parse_args().path
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        files = called_files(PATHS[path](Path(name)))
    folders = {folder: sum(file.startswith(f"{folder}/") for file in files) for folder in FOLDERS}
    print(*files, json.dumps({"path": path, "files": len(files), **folders}), sep="\n")


if __name__ == "__main__":
    main()
