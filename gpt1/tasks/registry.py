"""The table of tasks: everything that differs from one task to the next, and no code.

Kinds, metrics, row counts and the paper's figures are those of Radford et al. 2018, section 4.2,
tables 2 to 4. The paper's figures are test scores of a server; scores made here are dev scores.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from gpt1.errors import UserError

Kind = Literal[
    "classification", "entailment", "similarity", "choice", "generation", "referent", "last_word"
]
ZERO_SHOT_ONLY: tuple[Kind, ...] = ("referent", "last_word")
"""Kinds without a training objective: a language model scores them as it is."""

ZeroShot = Literal["", "answers", "referents", "acceptability", "sentiment", "last_word"]
"""How a language model scores a task without fine-tuning (paper, section 5;
gpt1/tasks/zero_shot.py); empty: it cannot.
"""

Layout = Literal["tsv", "jsonl", "race", "cloze", "dpr", "lambada", "wsc", "demo"]


@dataclass(frozen=True)
class Column:
    """Where values are in a row: by the header's names, or by index in a file without header.

    `choices`: one column that holds a list of all answers, or one for each; `id`: the examples'
    names (empty: made from the file and row); `joined`: the texts are the sentences of one text.
    """

    texts: tuple[str | int, ...]
    label: str | int
    choices: tuple[str | int, ...] = ()
    id: str = ""
    joined: bool = False

    @property
    def used(self) -> list[str | int]:
        """All of them."""
        return [*([self.id] if self.id else []), *self.texts, *self.choices, self.label]


@dataclass(frozen=True)
class SplitFile:
    """One file (or folder, or on the hub the pattern of all its shards) of a split.

    `columns` None: the task's; `group` marks its examples; `or_path`: its other name.
    """

    path: str
    columns: Column | None = None
    group: str = ""
    or_path: str = ""


@dataclass(frozen=True)
class Hub:
    """A task's copy on the Hugging Face hub, as Parquet files
    `config/split-00000-of-00001.parquet`.
    """

    repo: str
    files: Mapping[str, tuple[SplitFile, ...]]
    columns: Column
    labels: tuple[str, ...] = ()
    """What the hub's class numbers mean, in the words of the publisher's files; empty where the
    files hold the words.
    """
    kept_back: bool = False
    """Whether the label -1 of test rows stands for one that the publisher keeps back."""

    def parts(self, split: str) -> list[tuple[str, str]]:
        """The hub's configurations and splits that make one of ours."""
        paths = (source.path.removesuffix("-*.parquet") for source in self.files[split])
        return [(path.rpartition("/")[0], path.rpartition("/")[2]) for path in paths]


@dataclass(frozen=True)
class Task:
    """One row of the table."""

    name: str
    title: str
    kind: Kind
    labels: tuple[str, ...]
    """Names of the classes in the order of their indices; empty for a regression, for multiple
    choice and for generation, whose labels are texts.
    """
    metrics: tuple[str, ...]
    """The first one picks the checkpoint and is compared with the paper."""
    layout: Layout
    folder: str = ""
    """The folder of the publisher's archive that holds the files."""
    files: Mapping[str, tuple[SplitFile, ...]] = field(default_factory=dict)
    columns: Column | None = None
    choices: int = 0
    """Answers of each question (multiple choice), else 0."""
    answers: tuple[str | int, ...] = ()
    """What the files call the answers; default: A, B, C, ..."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """The paper's figures in per cent; `metric/group` for a part of the task."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """The publisher's row counts, by split."""
    dropped_label: str = ""
    """Rows with this label are no part of the task (SNLI's `-`: the annotators did not agree)."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of labels: files made from the hub's copy number the classes (QNLI: 0 is
    entailment).
    """
    short_rows: bool = False
    """Rows with too few columns are part of the published file and are left out, counted (QQP)."""
    hub: Hub | None = None
    """The hub's copy, where there is one that may be downloaded (`gpt1 data get`)."""
    asked: str = ""
    """Where the publisher gives the files out, for tasks without a copy on the hub."""
    best: Mapping[str, float] = field(default_factory=dict)
    """Best earlier single model in percent (tables 2 to 4), the 1 of figure 2's normalized
    score.
    """
    judged: ZeroShot = ""
    """How classification is scored zero-shot; the other kinds have one way each."""
    prompt: str = ""
    """What is appended to the texts before a label word, in words separated by spaces."""
    label_words: tuple[str, ...] = ()
    """A word for each class, in their order (`classifier: label_words`); empty: it has none."""

    @property
    def zero_shot(self) -> ZeroShot:
        """How the task is scored without fine-tuning; empty where it is not."""
        by_kind: dict[Kind, ZeroShot] = {
            "choice": "answers", "referent": "referents", "last_word": "last_word",
        }
        return by_kind.get(self.kind, self.judged)

    @property
    def regression(self) -> bool:
        """True where the label is a number (STS-B: 0 to 5)."""
        return "pearson" in self.metrics


def _files(train: str, dev: str, test: str, *groups: str) -> dict[str, tuple[SplitFile, ...]]:
    """The files of the three splits; of each group one, with the group's name for `{}`."""
    return {
        split: tuple(SplitFile(path.format(group), group=group) for group in groups or ("",))
        for split, path in (("train", train), ("dev", dev), ("test", test))
    }


def _rows(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train": train, "dev": dev, "test": test}


def _hub(
    repo: str, config: str, texts: tuple[str, ...], labels: tuple[str, ...] = (),
    kept_back: bool = False,
) -> Hub:
    """One configuration with the hub's usual split names."""
    paths = (f"{config}/{split}-*.parquet" for split in ("train", "validation", "test"))
    return Hub(repo, _files(*paths), Column(texts, "label"), labels, kept_back)


def _glue(config: str, *texts: str, labels: tuple[str, ...] = ("0", "1")) -> Hub:
    return _hub("nyu-mll/glue", config, texts, labels, kept_back=True)


_TSV = _files("train.tsv", "dev.tsv", "test.tsv")
_NLI3 = ("entailment", "neutral", "contradiction")
_NLI2 = ("entailment", "not_entailment")
_TRUE = "is it true ?"
_YES_MAYBE_NO, _YES_NO = ("yes", "maybe", "no"), ("yes", "no")
_SAME: dict[str, Any] = {"prompt": "the meaning is", "label_words": ("different", "same")}
_PAIR = Column(("sentence1", "sentence2"), "label")
_RACE = Column(("article", "question"), "answer", choices=("options",))
_PRONOUN = Column(("before", "after"), "label", choices=("options",))
_CLOZE = Column(
    tuple(f"InputSentence{number}" for number in range(1, 5)), "AnswerRightEnding",
    ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"), id="InputStoryid", joined=True,
)
_CLOZE_FILE = "cloze_test_{0}__spring2016 - cloze_test_ALL_{0}.csv"


def _mnli(train: str, dev: str, test: str) -> dict[str, tuple[SplitFile, ...]]:
    """One training file, and dev and test of two groups."""
    groups = _files(train, dev, test, "matched", "mismatched")
    return {**groups, "train": (SplitFile(train),)}


PAPER_TASKS = (
    Task(
        "cola", "CoLA", "classification", ("0", "1"), ("matthews", "accuracy"), "tsv", "CoLA",
        {**_TSV, "test": (SplitFile("test.tsv", Column(("sentence",), "label")),)},
        Column((3,), 1), hub=_glue("cola", "sentence"),
        paper={"matthews": 45.4}, rows=_rows(8551, 1043, 1063), best={"matthews": 35.0},
        judged="acceptability", prompt="this is", label_words=("wrong", "right"),
    ),
    Task(
        "sst2", "SST-2", "classification", ("0", "1"), ("accuracy",), "tsv", "SST-2", _TSV,
        Column(("sentence",), "label"), hub=_glue("sst2", "sentence"), paper={"accuracy": 91.3},
        rows=_rows(67349, 872, 1821), best={"accuracy": 93.2}, judged="sentiment",
        prompt="very", label_words=("negative", "positive"),
    ),
    Task(
        "mrpc", "MRPC", "similarity", ("0", "1"), ("f1", "accuracy"), "tsv", "MRPC", _TSV,
        Column(("#1 String", "#2 String"), "Quality"), hub=_glue("mrpc", "sentence1", "sentence2"),
        paper={"f1": 82.3, "accuracy": 75.7}, rows=_rows(3668, 408, 1725), best={"f1": 86.0},
        **_SAME,
    ),
    Task(
        "stsb", "STS-B", "similarity", (), ("pearson", "spearman"), "tsv", "STS-B", _TSV,
        Column(("sentence1", "sentence2"), "score"),
        hub=_glue("stsb", "sentence1", "sentence2", labels=()),
        paper={"pearson": 82.0, "spearman": 80.0}, rows=_rows(5749, 1500, 1379),
        best={"pearson": 81.0},
    ),
    Task(
        "qqp", "QQP", "similarity", ("0", "1"), ("f1", "accuracy"), "tsv", "QQP", _TSV,
        Column(("question1", "question2"), "is_duplicate"), short_rows=True,
        hub=_glue("qqp", "question1", "question2"),
        paper={"f1": 70.3, "accuracy": 88.5}, rows=_rows(363846, 40430, 390965), best={"f1": 66.1},
        **_SAME,
    ),
    Task(
        "mnli", "MNLI", "entailment", _NLI3, ("accuracy",), "tsv", "MNLI",
        _mnli("train.tsv", "dev_{}.tsv", "test_{}.tsv"),
        Column(("sentence1", "sentence2"), "gold_label"), dropped_label="-",
        hub=Hub(
            "nyu-mll/glue",
            _mnli(
                "mnli/train-*.parquet", "mnli/validation_{}-*.parquet", "mnli/test_{}-*.parquet"
            ),
            Column(("premise", "hypothesis"), "label"), _NLI3, kept_back=True,
        ),
        paper={"accuracy/matched": 82.1, "accuracy/mismatched": 81.4},
        rows=_rows(392702, 19647, 19643), best={"accuracy": 80.6},
        prompt=_TRUE, label_words=_YES_MAYBE_NO,
    ),
    Task(
        "snli", "SNLI", "entailment", _NLI3, ("accuracy",), "jsonl", "snli_1.0",
        _files("snli_1.0_train.jsonl", "snli_1.0_dev.jsonl", "snli_1.0_test.jsonl"),
        Column(("sentence1", "sentence2"), "gold_label"),
        dropped_label="-",
        hub=_hub("stanfordnlp/snli", "plain_text", ("premise", "hypothesis"), _NLI3),
        paper={"accuracy": 89.9}, rows=_rows(549367, 9842, 9824), best={"accuracy": 89.3},
        prompt=_TRUE, label_words=_YES_MAYBE_NO,
    ),
    Task(
        "qnli", "QNLI", "entailment", _NLI2, ("accuracy",), "tsv", "QNLI", _TSV,
        Column(("question", "sentence"), "label"),
        aliases={"0": "entailment", "1": "not_entailment"},
        hub=_glue("qnli", "question", "sentence", labels=_NLI2),
        paper={"accuracy": 88.1}, rows=_rows(104743, 5463, 5463), best={"accuracy": 82.3},
        prompt="is it the answer ?", label_words=_YES_NO,
    ),
    Task(
        "rte", "RTE", "entailment", _NLI2, ("accuracy",), "tsv", "RTE", _TSV, _PAIR,
        hub=_glue("rte", "sentence1", "sentence2", labels=_NLI2),
        paper={"accuracy": 56.0}, rows=_rows(2490, 277, 3000), best={"accuracy": 61.7},
        prompt=_TRUE, label_words=_YES_NO,
    ),
    Task(
        "scitail", "SciTail", "entailment", ("entails", "neutral"), ("accuracy",), "tsv",
        "SciTailV1.1/tsv_format",
        _files("scitail_1.0_train.tsv", "scitail_1.0_dev.tsv", "scitail_1.0_test.tsv"),
        Column((0, 1), 2),
        hub=_hub("allenai/scitail", "tsv_format", ("premise", "hypothesis")),
        paper={"accuracy": 88.3}, rows=_rows(23596, 1304, 2126), best={"accuracy": 83.3},
        prompt=_TRUE, label_words=("yes", "maybe"),
    ),
    Task(
        "race", "RACE", "choice", (), ("accuracy",), "race", "RACE",
        _files("train/{}", "dev/{}", "test/{}", "middle", "high"), _RACE, choices=4,
        hub=Hub(
            "ehovy/race",
            _files(
                "{}/train-*.parquet", "{}/validation-*.parquet", "{}/test-*.parquet", "middle",
                "high",
            ),
            _RACE,
        ),
        paper={"accuracy": 59.0, "accuracy/middle": 62.9, "accuracy/high": 57.4},
        rows=_rows(87866, 4887, 4934), best={"accuracy": 53.3},
    ),
    Task(
        "storycloze", "Story Cloze", "choice", (), ("accuracy",), "cloze", "",
        {"train": (SplitFile(_CLOZE_FILE.format("val")),),
            "test": (SplitFile(_CLOZE_FILE.format("test")),)}, _CLOZE, choices=2,
        answers=("1", "2"),
        asked="https://cs.rochester.edu/nlp/rocstories (a form; the files are sent by its authors)",
        paper={"accuracy": 86.5}, rows=_rows(1497, 374, 1871), best={"accuracy": 77.6},
    ),
)  # fmt: skip

OTHER_TASKS = (
    Task(
        "wnli", "WNLI", "entailment", ("0", "1"), ("accuracy",), "tsv", "WNLI", _TSV, _PAIR,
        hub=_glue("wnli", "sentence1", "sentence2"),
        paper={"accuracy": 53.4}, rows=_rows(635, 71, 146), prompt=_TRUE, label_words=("no", "yes"),
    ),
    Task(
        "dprd", "DPRD", "referent", (), ("accuracy",), "dpr", "dpr",
        {"train": (SplitFile("train.c.txt"),), "dev": (SplitFile("test.c.txt"),)}, _PRONOUN,
        choices=2, answers=(0, 1),
        asked="https://www.hlt.utdallas.edu/~vince/data/emnlp12 (train.c.txt and test.c.txt)",
        rows={"train": 1316, "dev": 564},
    ),
    Task(
        "lambada", "LAMBADA, the last word", "last_word", (), ("accuracy",), "lambada", "",
        {"dev": (SplitFile("lambada_test.jsonl", or_path="lambada_test_plain_text.txt"),)},
        Column(("before", "word"), "label"), answers=(0, 1),
        rows={"dev": 5153},
    ),
    Task(
        "wsc273", "WSC273", "referent", (), ("accuracy",), "wsc", "",
        {"dev": (SplitFile("wsc273.jsonl", or_path="WSCollection.xml"),)}, _PRONOUN, choices=2,
        answers=(0, 1), rows={"dev": 273},
    ),
)  # fmt: skip

DEMO_TASKS = (
    Task("demo_choice", "Which passage comes next", "choice", (), ("accuracy",), "demo", choices=2),
    Task(
        "demo_entailment", "Does B follow A", "entailment", ("follows", "does_not_follow"),
        ("accuracy",), "demo", prompt="does it follow ?", label_words=_YES_NO,
    ),
    Task(
        "demo_similarity", "Same book or not", "similarity", ("different", "same"), ("accuracy",),
        "demo", prompt="the book is", label_words=("different", "same"),
    ),
    # the labels are the corpus's authors, at most eight
    Task("demo_author", "Whose prose", "classification", (), ("accuracy",), "demo",
         prompt="by author", label_words=tuple("abcdefgh")),
    Task(
        "demo_reverse", "Words in reverse", "generation", (),
        ("rougeL", "rouge1", "rouge2", "bleu", "meteor_no_synonyms"), "demo",
    ),
)


TASKS: Mapping[str, Task] = {task.name: task for task in (*PAPER_TASKS, *OTHER_TASKS, *DEMO_TASKS)}


def task_named(name: str) -> Task:
    """The task called `name`, or the `TASK` of the module of that name, where it has a dot.

    UserError when there is none.
    """
    if name in TASKS:
        return TASKS[name]
    if "." in name and all(part.isidentifier() for part in name.split(".")):
        return _task_of(name)
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"unknown task {name!r}; {hint}tasks: {', '.join(TASKS)}")


def definition(task: Task) -> dict[str, Any]:
    """What task.json and head.json hold of a task of the user's, so that its module need not be
    where they are read.
    """
    kept = ("title", "kind", "metrics", "choices", "paper", "rows", "best", "judged")
    return {"definition": {name: getattr(task, name) for name in kept}} if "." in task.name else {}


def recorded_task(facts: Mapping[str, Any]) -> Task:
    """The task of task.json or head.json, with the labels that were used."""
    name, labels, own = facts["task"], tuple(facts["labels"]), facts.get("definition")
    if own is None:
        if name not in TASKS:  # no module is imported because a model's file names it
            raise ValueError(f"task {name!r} without its definition")
        return replace(TASKS[name], labels=labels)
    if own["kind"] not in get_args(Kind) or type(own["choices"]) is not int:
        raise ValueError(f"kind {own['kind']!r} with {own['choices']!r} choices")
    return Task(name, labels=labels, layout="tsv", **{**own, "metrics": tuple(own["metrics"])})


def _task_of(module: str) -> Task:
    """The task that a module of the user's defines, under the module's name."""
    try:
        task = importlib.import_module(module).TASK
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            path = f"{module.replace('.', '/')}.py"
            raise UserError(
                f"unknown task {module!r}: no file {path} next to the workflow, and no installed"
                " module"
            ) from None
        raise UserError(
            f"task {module!r} cannot be imported ({type(error).__name__}:"
            f" {' '.join(str(error).split())})"
        ) from error
    if not isinstance(task, Task):
        raise UserError(f"task {module!r}: its TASK is {task!r}; expected a Task")
    return replace(task, name=module)
