"""Promotion: the alias `champion` moves to a candidate that is no worse than the present champion on the same later rows.

Reads the evaluation rows of `training_set` and two registered versions; writes the alias that serving follows. No worse means
within a tolerance in both the ranking (AUC) and the probabilities (log loss).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from batch.training import Evaluation, evaluate, matrix
from features.declaration import FeatureGroup
from infra.registry import CHAMPION, load_booster, version_by_alias
from infra.settings import Settings

#: How much smaller a candidate's area under the ROC curve may be: newer data are worth that much.
TOLERANCE_AUC = 0.002
#: By what share its log loss may be larger: a model that ranks as well may still be worse calibrated.
TOLERANCE_LOG_LOSS = 0.02


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
    present = version_by_alias(settings, name, CHAMPION)

    def crown(reason: str, *evaluations: Evaluation) -> PromotionReport:
        client.set_registered_model_alias(name, CHAMPION, candidate_version)
        client.set_model_version_tag(name, candidate_version, "promotion", reason)
        return PromotionReport(True, reason, candidate_version, *evaluations)

    if present is None:
        return crown("There was no champion.")
    version = present.version
    if version == candidate_version:
        return PromotionReport(False, "The candidate is the champion already.", version)
    if present.tags.get("group_fingerprint") != group.fingerprint:
        return crown(f"The champion, version {version}, was trained on another version of the declaration and cannot be compared.")
    later = rows[rows["split"] == "evaluation"]
    labels, x = later["label"].to_numpy(), matrix(group, later)
    booster = load_booster(settings, name, candidate_version)
    try:
        present_booster = load_booster(settings, name, version)
    except (ValueError, OSError, MlflowException) as error:
        return crown(f"The champion, version {version}, cannot be loaded and compared: {error}")
    candidate, champion = (evaluate(labels, np.asarray(one.predict(x))) for one in (booster, present_booster))
    compared = (
        f"AUC {candidate.auc:.4f} against {champion.auc:.4f} and log loss {candidate.log_loss:.4f} against {champion.log_loss:.4f} "
        f"of version {version} on {len(later)} later rows"
    )
    if candidate.auc < champion.auc - TOLERANCE_AUC or candidate.log_loss > champion.log_loss * (1 + TOLERANCE_LOG_LOSS):
        return PromotionReport(False, f"The candidate is worse: {compared}.", version, candidate, champion)
    return crown(f"The candidate is no worse: {compared}.", candidate, champion)
