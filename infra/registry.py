"""The model registry: MLflow's aliases and LightGBM's text. Serving and promotion load a model the same way, and nothing in it is run."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from infra.settings import Settings

CHAMPION = "champion"
CHALLENGER = "challenger"

#: LightGBM's objectives whose scores are probabilities.
_PROBABILITY = re.compile(r"^objective=(binary|cross_entropy)\b", re.MULTILINE)


@contextmanager
def tracking(settings: Settings) -> Iterator[None]:
    """MLflow's own functions on this registry.

    MLflow puts the address into the environment as well, where the next `Settings.load` of another home would find it; afterwards
    the environment is as before.
    """
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(settings.mlflow_tracking_uri)
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


class RegisteredVersion(NamedTuple):
    """A version of a registered model."""

    version: str
    run_id: str | None
    tags: dict[str, str]


def version_by_alias(settings: Settings, name: str, alias: str) -> RegisteredVersion | None:
    """The version that has an alias, or None where there is none.

    Raises:
        MlflowException: The registry does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        found = MlflowClient(settings.mlflow_tracking_uri).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # The first for a model that nobody has registered, the second for an alias that nobody has set.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    # A registry in a database of its own gives a number here, a server a text.
    return RegisteredVersion(str(found.version), found.run_id, found.tags)


def load_booster(settings: Settings, name: str, version: str) -> Any:
    """A registered version as `lightgbm.Booster`, from its text.

    Raises:
        ValueError: It is no booster in LightGBM's text form (a pickle, say), is cut off, or gives no probabilities.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    import lightgbm
    import mlflow
    from mlflow.models import Model

    with tempfile.TemporaryDirectory(prefix="braid-model-") as folder, tracking(settings):
        found = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=folder)
        flavor = Model.load(found).flavors.get("lightgbm", {})
        if flavor.get("model_class") != "lightgbm.basic.Booster":
            raise ValueError("it is no LightGBM booster in text form")
        text = Path(found, flavor["data"]).read_text(encoding="utf-8")
    # LightGBM itself reads the trees that are there and says nothing of those that are not.
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        raise ValueError("its text is not whole")
    if not _PROBABILITY.search(text):
        raise ValueError("it gives no probabilities")
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"LightGBM cannot read it: {error}") from None
