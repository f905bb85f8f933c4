"""The settings of fine-tuning. No torch: a plan reads settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from gpt1.errors import UserError
from gpt1.settings import CODE_OF_2018, DEBUG_FIELD, Settings, paper, runtime_field
from gpt1.tasks.registry import TASKS, ZERO_SHOT_ONLY, task_named
from gpt1.train.config import Precision

Regression = Literal["soft", "mse"]
Truncation = Literal["longest_first", "fixed"]
Loss = Literal["sum", "interpolated"]
Classifier = Literal["linear", "label_words"]
Variant = Literal["full", "no_auxiliary_lm", "no_pretraining", "lstm"]
"""The rows of the paper's table 5."""
PretrainSeed = Annotated[int, Field(ge=0, le=2**31 - 1)] | Literal["same"] | None
"""Chooses a pretrain job by its seed."""
SHORTEST = 16
"""Ids a sequence must have room for; fewer leave no text beside the special tokens."""


def _check_name(name: str) -> str:
    try:
        task_named(name)
    except UserError as error:
        raise ValueError(str(error)) from error
    return name


TaskName = Annotated[str, AfterValidator(_check_name)]
"""A setting that names a task of gpt1.tasks.registry."""


class FinetuneConfig(Settings):
    """Settings of fine-tuning on one task.

    The defaults are the paper's (section 4.1).
    """

    task: TaskName
    """Task to fine-tune on; needs a task_data job."""
    seed: int = Field(1, ge=0, le=2**31 - 1)
    """Seed for the head, special tokens, dropout and example order."""
    lr: float = Field(6.25e-5, gt=0, le=0.1, json_schema_extra=paper("4.1"))
    """Peak learning rate; it decays linearly to 0."""
    epochs: int = Field(3, ge=1, le=1000, json_schema_extra=paper("4.1"))
    """Passes over the training examples; dev is scored after each."""
    batch_size: int = Field(32, ge=1, le=4096, json_schema_extra=paper("4.1"))
    """Examples per step; an incomplete last batch is dropped."""
    gradient_accumulation_steps: int = Field(1, ge=1, le=4096)
    """Split each batch into this many micro-batches to save memory."""
    warmup_steps: int | None = Field(None, ge=0, le=10_000_000)
    """Linear warmup steps; default: set by `warmup_ratio`."""
    warmup_ratio: float = Field(0.002, ge=0, lt=1, json_schema_extra=paper("4.1"))
    """Warmup as a fraction of all steps."""
    lm_weight: float = Field(0.5, ge=0, le=10, json_schema_extra=paper("4.1"))
    """Weight of the auxiliary language-model loss."""
    loss: Loss = runtime_field("sum", unless="loss")
    """The paper's task + lm_weight * LM, or (1 - lm_weight) * task + lm_weight * LM as in popular
    articles (their lambda is 1 - lm_weight).
    """
    classifier: Classifier = runtime_field("linear", unless="classifier")
    """A new linear layer on the extract token, or the language model's logits of one label word per
    class after a prompt, as in popular articles; such a model cannot be saved.
    """
    classifier_dropout: float = Field(0.1, ge=0, lt=1, json_schema_extra=paper("4.1"))
    """Dropout before the task's linear layer."""
    weight_decay: float = Field(0.01, ge=0, le=1, json_schema_extra=paper("4.1"))
    """Decoupled weight decay for matrices and embeddings."""
    grad_clip: float = Field(1.0, ge=0, le=1000, json_schema_extra=CODE_OF_2018)
    """Maximum gradient norm (0 disables clipping)."""
    max_length: int | None = Field(None, ge=SHORTEST, le=8_192)
    """Maximum sequence length in tokens; default: the model's context."""
    truncation: Truncation = Field("longest_first", json_schema_extra=CODE_OF_2018)
    """Truncate the longest text first, or each text to a fixed length as in the 2018 code."""
    regression: Regression = Field("soft", json_schema_extra=CODE_OF_2018)
    """STS-B: soft labels over six classes, or one output trained with MSE."""
    precision: Precision = "fp32"
    """Compute precision; weights and optimizer state stay in fp32."""
    group_by_length: bool = Field(True, json_schema_extra=CODE_OF_2018)
    """Batch examples of similar length (faster); `false`: as in the 2018 code."""
    log_every: int = Field(10, ge=1, le=100_000, json_schema_extra=DEBUG_FIELD)
    """Log metrics every N steps."""
    reference_2018: bool = runtime_field(False, mark=CODE_OF_2018)
    """Match the 2018 code: `truncation: fixed`, `group_by_length: false`."""

    @model_validator(mode="before")
    @classmethod
    def _as_in_2018(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("reference_2018"):
            return {"truncation": "fixed", "group_by_length": False, **values}
        return values

    @field_validator("task")
    @classmethod
    def _has_objective(cls, name: str) -> str:
        if task_named(name).kind in ZERO_SHOT_ONLY:
            raise ValueError(
                f"task {name!r} has no training objective; use it in a zero_shot stage"
            )
        return name

    @model_validator(mode="after")
    def _pieces(self) -> Self:
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by gradient_accumulation_steps"
                f" {self.gradient_accumulation_steps}; choose a divisor of {self.batch_size}"
            )
        if self.loss == "interpolated" and self.lm_weight >= 1:
            raise ValueError(
                f"lm_weight {self.lm_weight:g} leaves the task no weight when the loss is"
                " interpolated; expected less than 1"
            )
        task = task_named(self.task)
        if self.classifier == "label_words" and len(task.label_words) < max(1, len(task.labels)):
            known = ", ".join(name for name, one in TASKS.items() if one.label_words)
            raise ValueError(
                f"task {self.task!r} has no label words for its classes; use `classifier: linear`,"
                f" or one of: {known}"
            )
        return self

    def warmup(self, steps: int) -> int:
        """The warmup in steps, of a training of `steps`."""
        return round(self.warmup_ratio * steps) if self.warmup_steps is None else self.warmup_steps
