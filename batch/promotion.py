"""Promotion: the alias `champion` moves to a candidate that is no worse than the present champion on the same later rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from batch.training import Evaluation, evaluate, matrix
from features.declaration import FeatureGroup
from infra.settings import Settings

CHAMPION = "champion"
#: How much smaller a candidate's area under the ROC curve may be: newer data are worth that much.
TOLERANCE_AUC = 0.002


@dataclass(frozen=True)
class PromotionReport:
    """Whether the candidate was promoted, why in a sentence, who is champion now, and both evaluations where there was a comparison."""

    promoted: bool
    reason: str
    champion_version: str
    candidate: Evaluation | None = None
    champion: Evaluation | None = None


def promote(settings: Settings, group: FeatureGroup, candidate_version: str, rows: pd.DataFrame) -> PromotionReport:
    """Compares the candidate with the champion on the evaluation rows and moves the alias if it is no worse.

    Args:
        settings: Where MLflow is.
        group: The declaration.
        candidate_version: A version of the registered model.
        rows: `training_set`.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client, name = MlflowClient(settings.mlflow_tracking_uri), settings.model_name
    try:
        present = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        present = None

    def crown(reason: str, *evaluations: Evaluation) -> PromotionReport:
        client.set_registered_model_alias(name, CHAMPION, candidate_version)
        client.set_model_version_tag(name, candidate_version, "promotion", reason)
        return PromotionReport(True, reason, candidate_version, *evaluations)

    if present is None:
        return crown("There was no champion.")
    version = str(present.version)
    if version == candidate_version:
        return PromotionReport(False, "The candidate is the champion already.", version)
    if present.tags.get("group_fingerprint") != group.fingerprint:
        return crown(f"The champion, version {version}, was trained on another version of the declaration and cannot be compared.")
    later = rows[rows["split"] == "evaluation"]
    labels, x = later["label"].to_numpy(), matrix(group, later)
    candidate, champion = (evaluate(labels, _scores(settings, one, x)) for one in (candidate_version, version))
    compared = f"AUC {candidate.auc:.4f} against {champion.auc:.4f} of version {version} on {len(later)} later rows"
    if candidate.auc >= champion.auc - TOLERANCE_AUC:
        return crown(f"The candidate is no worse: {compared}.", candidate, champion)
    return PromotionReport(False, f"The candidate is worse: {compared}.", version, candidate, champion)


def _scores(settings: Settings, version: str, x: np.ndarray) -> np.ndarray:
    import mlflow

    mlflow.set_tracking_uri(settings.mlflow_tracking_uri)
    return np.asarray(mlflow.lightgbm.load_model(f"models:/{settings.model_name}/{version}").predict(x))
