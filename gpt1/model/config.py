"""The shape of a model and its kind: plain numbers and a name, no torch, so that settings can be
checked before anything heavy is imported.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, WithJsonSchema

from gpt1.errors import UserError

EmbeddingDropout = Literal["activation", "matrix"]
LN_EPS = 1e-5
LARGEST = 2**31 - 1  # of a size: far above any model's, and a number that can be computed with


@dataclass(frozen=True)
class ModelConfig:
    """The paper's GPT (section 4.1), or the LSTM of its section 5; the defaults are the paper's.

    `embedding_dropout` says what the embedding's dropout acts on: the summed `activation`, or (as
    in the released code) the whole embedding `matrix` once a forward. `special_tokens` counts the
    rows after the vocabulary's that fine-tuning adds. `init_std` is the deviation of all weight
    matrices and embeddings at the start; narrow models need more than the paper's 0.02
    (dev/LOG.md). Of kind `lstm` each layer is one of `units` units, and `heads` means nothing. The
    kind of a variant is the name of its class, `FILE.py:CLASS` (docs/how-to/variant.md).
    """

    vocabulary: int = 40_478
    context: int = 512
    width: int = 768
    layers: int = 12
    heads: int = 12
    dropout: float = 0.1
    embedding_dropout: EmbeddingDropout = "activation"
    special_tokens: int = 0
    init_std: float = 0.02
    kind: str = "gpt"
    units: int = 2048

    def __post_init__(self) -> None:
        """Raise UserError for a shape no model can have."""
        sizes = dict.fromkeys(("vocabulary", "context", "width", "heads", "units"), 1)
        for name, least in {**sizes, "layers": 0, "special_tokens": 0}.items():
            if not least <= (found := getattr(self, name)) <= LARGEST:
                limit = f"at least {least}" if found < least else f"at most {LARGEST}"
                raise UserError(f"model: {name} is {str(found)[:20]}, expected {limit}")
        divides = f"is not divisible by heads {self.heads}; choose a multiple of {self.heads}"
        dropout = f"embedding_dropout is {self.embedding_dropout!r}, expected activation or matrix"
        for right, problem in (
            (is_kind(self.kind), f"kind is {self.kind!r:.80}, expected gpt, lstm or a variant"),
            (self.kind == "lstm" or not self.width % self.heads, f"width {self.width} {divides}"),
            (0 <= self.dropout < 1, f"dropout is {self.dropout}, expected 0 <= dropout < 1"),
            (0 < self.init_std < 1, f"init_std is {self.init_std}, expected 0 < init_std < 1"),
            (self.embedding_dropout in get_args(EmbeddingDropout), dropout),
        ):
            if not right:
                raise UserError(f"model: {problem}")

    @property
    def rows(self) -> int:
        """Rows of the token embedding: the vocabulary and the special tokens."""
        return self.vocabulary + self.special_tokens

    def block_parameters(self) -> int:
        """Parameters of one block: four matrices (12 C^2), their biases (9 C) and two layer norms
        (4 C).

        Of one LSTM layer: four gates of U (C + U) weights and 2 U biases, the projection U C + C,
        and a layer norm (2 C).
        """
        if self.kind == "lstm":
            return 4 * self.units * (self.width + self.units + 2) + self.width * (self.units + 3)
        return 12 * self.width**2 + 13 * self.width

    def parameters(self) -> int:
        """All parameters; the tied softmax has none of its own.

        116,534,784 for the paper's shape (section 4.1). Those of a variant are counted; UserError
        where its class is not imported or cannot be built.
        """
        if variant_module(self.kind):
            return model_class(self.kind).count_parameters(self)
        return (self.rows + self.context) * self.width + self.layers * self.block_parameters()

    def flops_per_token(self, length: int | None = None) -> float:
        """Floating-point operations of training on one token: 6 a parameter, and 12 C T a layer for
        attention over T positions (an LSTM has none).

        The usual estimate (PaLM, appendix B): 756 MFLOP for the paper's shape at T = 512. Causality
        is not deducted.
        """
        attention = (
            0 if self.kind == "lstm" else 12 * self.layers * self.width * (length or self.context)
        )
        return 6 * self.parameters() + attention

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`.

        Raises UserError on unknown keys: a config of another program, or of a later version.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UserError(
                f"model config: unknown keys {unknown}; it was not written by this version of gpt1"
            )
        return cls(**values)


# Kinds: gpt, lstm, or `FILE.py:CLASS`, a variant in a file of the user's (docs/how-to/variant.md)


VARIANT = re.compile(r"((?:[^\W\d]\w*/)*[^\W\d]\w*)\.py:[^\W\d]\w*")
MODELS: dict[str, Any] = {}
"""The classes by kind: GPT, once it is imported, and the variants that this process imported."""


def variant_module(kind: object) -> str | None:
    """The module of a variant (`my/model.py:Rotary`: my.model); None for any other value."""
    found = VARIANT.fullmatch(kind) if isinstance(kind, str) else None
    return found[1].replace("/", ".") if found else None


def is_kind(kind: str) -> bool:
    """Whether `kind` is gpt, lstm, or the name of a variant."""
    return kind in ("gpt", "lstm") or variant_module(kind) is not None


def import_variant(kind: str) -> None:
    """Import the class of a variant that a setting names; nothing to do for other kinds.

    UserError where there is no such file or class, the file cannot be imported, or the class is no
    subclass of GPT.
    """
    if (module := variant_module(kind)) is None:
        return
    file, _, name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"no file {file} in the folder of the workflow; write it") from None
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{file} cannot be imported ({why}); fix it") from error
    if not isinstance(found, type) or not issubclass(found, MODELS.get("gpt", ())):
        what = "no" if found is None else f"{found!r:.60} as"
        raise UserError(f"{file} has {what} {name}; expected a subclass of gpt1.model.gpt.GPT")
    MODELS[kind] = found


def model_class(kind: str, where: str = "model") -> Any:
    """The class of a kind of model, GPT or a subclass; `where` the kind is named.

    UserError for a variant that this process has not imported: no module is imported because a
    model's file names it.
    """
    if kind not in MODELS:
        raise UserError(
            f"{where}: its class {kind!r:.80} is not imported; use the model by the name of its"
            " job, with the workflow that names the class (--file), not as a folder"
        )
    return MODELS[kind]


def _check_kind(kind: str) -> str:
    if not is_kind(kind):
        raise ValueError("expected gpt, lstm, or a class such as variants.py:ReLU (no `-` or `..`)")
    try:
        import_variant(kind)
    except UserError as error:
        raise ValueError(str(error)) from error
    return kind


_NAMED = {"type": "string", "pattern": f"^{VARIANT.pattern}$"}
ModelKind = Annotated[
    str, AfterValidator(_check_kind), WithJsonSchema({"anyOf": [{"enum": ["gpt", "lstm"]}, _NAMED]})
]
"""A setting that names a kind of model; a variant is imported when it is validated."""
