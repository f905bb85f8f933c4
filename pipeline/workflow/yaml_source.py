"""YAML with the line of every key, so that messages can point at it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gpt1.errors import UserError

KeyPath = tuple[str | int, ...]
_PATH = re.compile(r"(~|\.{0,2})/|[A-Za-z][A-Za-z0-9+.-]*://")
_QUOTES = "'\"|>&!"


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast


class _Loader(_Safe):
    """SafeLoader that reads `1e-3` as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


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


def load(path: Path) -> YamlDocument:
    """Read a YAML file. UserError for what is missing, is not YAML, or has a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; choose one with --file, or create one with `gpt1 init .`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as UTF-8 text ({error}); choose another file"
        ) from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        document = YamlDocument(str(path), None)
        document.data = _build(loader, node, document, ()) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}"
        ) from None
    finally:
        loader.dispose()
    return document


def scalar(text: str) -> Any:
    """The value of a `--set key=value`, read as YAML.

    Text without quotes is taken as it is, such as the path `a #1`.
    """
    if _PATH.match(text):
        return text
    try:
        value = yaml.load(text, Loader=_Loader)
        return text.strip() if isinstance(value, str) and text.lstrip()[0] not in _QUOTES else value
    except yaml.YAMLError as error:
        raise UserError(
            f"--set: {text!r} is not valid YAML ({getattr(error, 'problem', error)})"
        ) from None


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause that names the known words, the nearest first: for the end of a message."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}? (known: {', '.join(known)})"
    return f"known: {', '.join(known) or 'none'}"


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
        return [
            _build(loader, item, document, (*path, index)) for index, item in enumerate(node.value)
        ]
    return loader.construct_object(node, deep=True)
