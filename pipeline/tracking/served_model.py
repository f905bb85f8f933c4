"""The model as MLflow serves it: a "model from code", so that nothing is pickled.

MLflow runs this file; nothing imports it.

Its one artifact, `model`, is a folder as `gpt1 export hf` writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pandas import DataFrame

from gpt1.errors import UserError
from gpt1.tasks.predictor import Predictor


class ServedModel(PythonModel):
    """Rows with `prompt` are continued; a fine-tuned model predicts for rows with `text`,
    `text_b`, `choices`.
    """

    def load_context(self, context: Any) -> None:
        self._predictor = Predictor.load(Path(context.artifacts["model"]))

    def predict(
        self, context: Any, model_input: DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """A data frame, or a list of rows, to a list of answers.

        The hint is one that MLflow lets pass; on every other, and on none, it gives advice in red
        or yellow which no filter of warnings keeps off the terminal.
        """
        del context
        is_frame = hasattr(model_input, "to_dict")
        rows = model_input.to_dict(orient="records") if is_frame else list(model_input)
        if not rows:  # MLflow leaves out columns that the signature does not name
            found = "no rows with `prompt`, or with `text` for a fine-tuned model"
            raise MlflowException.invalid_parameter_value(found)
        try:
            plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
            return self._predictor.answer(plain, params)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _plain(value: Any) -> Any:
    """pandas' missing values as None, its arrays as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return None if isinstance(value, float) and value != value else value


set_model(ServedModel())
