"""The registered model, as MLflow loads it: this file is kept beside the prior's JSON, so that nothing is pickled."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from massact.prediction.prior import Prior, VectorFacts, parse_prior


class CoefficientModel(PythonModel):
    """Facts about vectors, a row each, to the coefficients that are expected of them."""

    def load_context(self, context: Any) -> None:
        """Read the prior that lies beside this file."""
        path = Path(context.artifacts["prior"])
        self._prior: Prior = parse_prior(path.read_text(encoding="utf-8"), "the registered model")

    # MLflow would take types of its arguments for the model's signature
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Columns are those of `massact.prediction.prior.VectorFacts`; the answer's are best, cliff and spread."""
        import pandas as pd

        names = [field.name for field in fields(VectorFacts)]
        facts = [VectorFacts(**row) for row in model_input[names].to_dict("records")]
        return pd.DataFrame([asdict(self._prior.expect(row)) for row in facts])[["best", "cliff", "spread"]]


set_model(CoefficientModel())
