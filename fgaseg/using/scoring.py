"""The model that MLflow's scoring server loads: MLflow runs this file, the bundle is its artifact."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from fgaseg.errors import UserError, one_line
from fgaseg.using.bundle import load_bundle
from fgaseg.using.limits import REQUEST
from fgaseg.using.requests import AT_ONCE, answer, read_order


class ServedModel(PythonModel):
    """Rows with `image`, `classes` and perhaps `background` -> an answer each (see `fgaseg.using.requests`)."""

    def load_context(self, context: Any) -> None:
        """Load the bundle; `FGASEG_THREADS` is the number of CPU threads, 1 by default."""
        self._segment = load_bundle(Path(context.artifacts["bundle"]), int(os.environ.get("FGASEG_THREADS", "1")))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """All rows are checked before the first is segmented. What cannot be used is a bad request to MLflow."""
        try:
            if not 1 <= len(model_input) <= AT_ONCE:
                raise UserError(f"{len(model_input)} rows; 1 to {AT_ONCE} are taken")
            orders = [read_order(row) for row in model_input.to_dict("records")]
            results = [self._segment(o.image, o.vocabulary, background=o.background, limits=REQUEST) for o in orders]
        except UserError as error:
            raise MlflowException(one_line(error), error_code=INVALID_PARAMETER_VALUE) from None
        return [answer(result) for result in results]


set_model(ServedModel())
