"""YAML with the line of every key, so that messages can point at it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gpt1.errors import UserError

KeyPath = tuple[str | int, ...]
_PATH = re.compile(r"(~|\.{0,2})/|[A-Za-z][A-Za-z0-9+.-]*://")
_QUOTES = "'\"|>&!"
TASKS = "${tasks}"
"""In a matrix: the tasks of the workflow's list `tasks:`."""
DEEPEST, MOST = 50, 100_000  # levels and values of a document: far above what a workflow has


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast


class _Loader(_Safe):
    """SafeLoader that reads `1e-3` as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class ConfigError(UserError):
    """What is wrong with a key of a document, and where."""

    def __init__(self, where: str, problem: object) -> None:
        super().__init__(f"{where}: {problem}")
        self.problem = str(problem)


@dataclass
class YamlDocument:
    """A YAML document: its data, and the line of each key by its path."""

    name: str
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """`file:line` of the key at `path`, or of the nearest enclosing key that stands in the
        file.
        """
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name

    def error(self, path: KeyPath, message: object) -> ConfigError:
        """What is wrong with the key at `path`."""
        return ConfigError(self.where(path), message)

    @contextmanager
    def blame(self, path: KeyPath, about: str = "") -> Iterator[None]:
        """A UserError of the block is one of the key at `path`."""
        try:
            yield
        except UserError as error:
            raise self.error(path, f"{about}{error}") from None


def load(path: Path) -> YamlDocument:
    """Read a YAML file. UserError for what is missing, is not YAML, or has a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        advice = "choose one with --file, or create one with `gpt1 init .`"
        raise UserError(f"{path}: no such file; {advice}") from None
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read as UTF-8 text ({error})"
        raise UserError(f"{path}: {problem}; choose another file") from None
    return _parse(text, str(path))


def scalar(text: str, name: str = "--set") -> Any:
    """The value of an option, read as YAML; errors call it `name`.

    Text without quotes is taken as it is, such as the path `a #1`.
    """
    if _PATH.match(text):
        return text
    value = _parse(text, name).data
    return text.strip() if isinstance(value, str) and text.lstrip()[0] not in _QUOTES else value


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause that names the known words, the nearest first: for the end of a message."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}? (known: {', '.join(known)})"
    return f"known: {', '.join(known) or 'none'}"


def _parse(text: str, name: str) -> YamlDocument:
    document, loader = YamlDocument(name, None), _Loader(text)
    try:
        _check_size(text, name)
        node = loader.get_single_node()
        document.data = _build(loader, node, document, ()) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        if mark and TASKS in "".join(text.splitlines()[mark.line : mark.line + 1]):
            problem += f"; inside brackets, put {TASKS} in quotes"
        raise UserError(f"{name}{line}: not valid YAML: {problem}") from None
    finally:
        loader.dispose()
    return document


def _check_size(text: str, name: str) -> None:
    """UserError for what is nested too deeply, or has too many values once each alias is replaced
    by what it names: PyYAML would end the process, and what nine names of nine mean grows ninefold
    a line.
    """
    open_: list[tuple[str | None, int]] = [(None, 0)]  # anchor, and values so far
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, _Loader):
        anchor, size = getattr(event, "anchor", None), 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((anchor, 1))
            sizes |= {anchor: MOST + 1} if anchor else {}  # inside of itself, it has no end
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(anchor), 0)
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            anchor, size = (anchor, 1) if isinstance(event, yaml.ScalarEvent) else open_.pop()
            sizes |= {anchor: size} if anchor else {}
        open_[-1] = open_[-1][0], open_[-1][1] + size
        if len(open_) > DEEPEST or open_[-1][1] > MOST:
            mark: Any = event.start_mark
            where = f"{name}:{mark.line + 1}"
            if len(open_) > DEEPEST:
                raise UserError(f"{where}: found more than {DEEPEST} levels; write fewer")
            raise UserError(
                f"{where}: found more than {MOST:,} values, as each alias counts as all that it"
                " repeats; write fewer"
            )


def _build(loader: _Loader, node: yaml.Node, document: YamlDocument, path: KeyPath) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            line = key_node.start_mark.line + 1
            if key is None:
                raise UserError(f"{document.name}:{line}: expected a plain word as key")
            if key in built:
                raise UserError(f"{document.name}:{line}: key {key!r} appears twice; keep one")
            document.lines[(*path, key)] = line
            built[key] = _build(loader, value_node, document, (*path, key))
        return built
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_build(loader, item, document, (*path, index)) for index, item in items]
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, OverflowError) as error:
        where, value = f"{document.name}:{node.start_mark.line + 1}", node.value[:40]
        raise UserError(f"{where}: {value!r} cannot be read ({error}); put it in quotes") from None
