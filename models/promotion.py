"""Promotion: the alias `champion` moves to a candidate that passes the gate.

Reads the evaluation rows of `training_set`, two registered versions, and the last verdict of consistency; writes the alias that
serving follows. On the same later rows the candidate must be no worse than the present champion, in the ranking (AUC) and the
probabilities (log loss), and not much worse on any slice; it must answer fast enough; and what is served must have been found equal
to what it was trained on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.declaration import FeatureGroup
from features.project import Model
from infra.settings import Settings
from models.ranking import Difference, Ranking, auc_difference
from models.registry import (
    CHAMPION,
    DIGEST_TAG,
    batch_only_name,
    booster_of,
    load_booster,
    registered_text,
    text_digest,
    version_by_alias,
)  # fmt: skip
from models.training import MIN_ROWS, Evaluation, evaluate, matrix

#: How much smaller a candidate's area under the ROC curve may be: newer data are worth that much.
TOLERANCE_AUC = 0.002
#: By what share its log loss may be larger: a model that ranks as well may still be worse calibrated.
TOLERANCE_LOG_LOSS = 0.02
#: How much smaller its AUC may be on a slice, and how many rows a slice needs. Of twenty slices one is worse by chance: beyond the
#: tolerance the loss must be shown, too, with this confidence.
TOLERANCE_SLICE_AUC, MIN_SLICE, SLICE_CONFIDENCE = 0.02, 400, 0.99
#: The median time of one prediction, in milliseconds: a request has ten for everything.
MAX_PREDICT_MS = 5.0
#: The tag of a promoted version that says whether served answers had been checked and found right: "true" or "false".
PROVEN_TAG = "proven"
#: What the reason of a promotion says without that evidence.
UNPROVEN = "Unknown: nothing served was checked."
_TWIN_TAG = "twin_version"
_DAY_MS, _WEEK_DAYS = 86_400_000, 7


@dataclass(frozen=True)
class Slice:
    """A part of the evaluation rows, the AUC of both models on it, and what the candidate's is worth more, where it was looked into."""

    name: str
    rows: int
    candidate_auc: float
    champion_auc: float
    difference: Difference | None = None

    @property
    def worse(self) -> bool:
        """Whether the candidate is worse here beyond tolerance and chance."""
        return self.difference is not None and self.difference.high < 0


@dataclass(frozen=True)
class PromotionReport:
    """Whether the candidate was promoted, why in a sentence, and who is champion now (empty: nobody).

    Both evaluations and the slices where there was a comparison; `predict_ms` is the candidate's median time of one prediction. `proven` says
    whether served answers were checked and found right.
    """

    promoted: bool
    reason: str
    champion_version: str
    proven: bool
    candidate: Evaluation | None = None
    champion: Evaluation | None = None
    slices: tuple[Slice, ...] = ()
    predict_ms: float | None = None


def promote(
    settings: Settings, model: Model, candidate_version: str, rows: pd.DataFrame, defects: int | None = None,
    twin_version: str | None = None,
) -> PromotionReport:  # fmt: skip
    """Holds the candidate to the gate and moves the alias if it passes.

    One write promotes: the champion's alias. What belongs to it is written before, as tags of the version; the twin's alias follows
    the tag, at the next promotion at the latest.

    Args:
        settings: Where MLflow is.
        model: The declaration.
        candidate_version: A version of the registered model.
        rows: Its training set.
        defects: Of the last verdict of consistency: served values that differ from the right ones and that nothing explains; None where
            no served answer was checked.
        twin_version: The batch-only twin's version, which becomes its own name's champion along with the candidate.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client, name, group = MlflowClient(settings.mlflow_tracking_uri), model.name, model.group
    present = version_by_alias(settings, name, CHAMPION)
    version = present.version if present else ""
    proven = defects == 0

    def crown(reason: str, **found: Any) -> PromotionReport:
        reason = reason if proven else f"{reason} {UNPROVEN}"
        tags = {
            DIGEST_TAG: text_digest(text),
            "promotion": reason,
            PROVEN_TAG: str(proven).lower(),
            **({_TWIN_TAG: twin_version} if twin_version else {}),
        }
        for key, value in tags.items():
            client.set_model_version_tag(name, candidate_version, key, value)
        client.set_registered_model_alias(name, CHAMPION, candidate_version)
        crown_twin(twin_version)
        return PromotionReport(True, reason, candidate_version, proven, **found)

    def crown_twin(twin: str | None) -> None:
        if twin is not None:
            client.set_registered_model_alias(batch_only_name(name), CHAMPION, twin)

    def refuse(reason: str, **found: Any) -> PromotionReport:
        client.set_model_version_tag(name, candidate_version, "promotion", reason)
        return PromotionReport(False, reason, version, proven, **found)

    if present is not None:  # a run that ended between the two, or somebody by hand, has left the twin behind
        crown_twin(present.tags.get(_TWIN_TAG))
    if version == candidate_version:
        return PromotionReport(False, "The candidate is the champion already.", version, proven)
    if defects:
        return refuse(f"What is served is not what was trained on: the last check of consistency has found {defects} defects.")
    try:
        text = registered_text(settings, name, candidate_version)
        booster = booster_of(text)
    except ValueError as error:
        return refuse(f"The candidate cannot be loaded: {error}.")
    if tuple(booster.feature_name()) != group.model_names:
        return refuse("The candidate was trained on other features than are declared.")
    found: dict[str, Any] = {"predict_ms": _predict_ms(booster, group)}
    if found["predict_ms"] > MAX_PREDICT_MS:
        return refuse(
            f"The candidate takes {found['predict_ms']:.1f} ms for one prediction; {MAX_PREDICT_MS:g} are allowed.", **found
        )
    if present is None:
        return crown("There was no champion.", **found)
    if present.tags.get("group_fingerprint") != group.fingerprint:
        return crown(
            f"The champion, version {version}, was trained on another version of the declaration and cannot be compared.", **found
        )
    try:
        present_booster = load_booster(settings, name, version)
    except (ValueError, OSError, MlflowException) as error:
        return crown(f"The champion, version {version}, cannot be loaded and compared: {error}", **found)
    later = rows[rows["split"] == "evaluation"]
    labels, x = later["label"].to_numpy(), matrix(group, later)
    if len(labels) < MIN_ROWS or len(set(labels)) < 2:
        return refuse(
            f"The candidate cannot be compared on {len(labels)} later rows; {MIN_ROWS} rows of both labels are needed.", **found
        )
    candidate_scores, champion_scores = (np.asarray(one.predict(x)) for one in (booster, present_booster))
    candidate, champion = evaluate(labels, candidate_scores), evaluate(labels, champion_scores)
    slices = tuple(_slices(group, later, labels, candidate_scores, champion_scores))
    found |= {"candidate": candidate, "champion": champion, "slices": slices}
    compared = (
        f"AUC {candidate.auc:.4f} against {champion.auc:.4f} and log loss {candidate.log_loss:.4f} against {champion.log_loss:.4f} "
        f"of version {version} on {len(later)} later rows"
    )
    if candidate.auc < champion.auc - TOLERANCE_AUC or candidate.log_loss > champion.log_loss * (1 + TOLERANCE_LOG_LOSS):
        return refuse(f"The candidate is worse: {compared}.", **found)
    worst = min((one for one in slices if one.worse), key=lambda one: one.candidate_auc - one.champion_auc, default=None)
    if worst is not None:
        said = f"AUC {worst.candidate_auc:.4f} against {worst.champion_auc:.4f} on {worst.rows} rows"
        return refuse(f"The candidate is worse where {worst.name}: {said} of version {version}.", **found)
    return crown(f"The candidate is no worse: {compared}, nor much worse on any of {len(slices)} slices.", **found)


def _slices(
    group: FeatureGroup, later: pd.DataFrame, labels: npt.NDArray[Any], candidate: npt.NDArray[Any], champion: npt.NDArray[Any]
) -> Iterator[Slice]:
    """The parts that are large enough: weekdays and weekends, and each feature's lower and upper half and its missing values."""
    entities = later["entity"].to_numpy()
    weekday = ((later["q_ms"] // _DAY_MS + 3) % _WEEK_DAYS).to_numpy()  # 1970 began on a Thursday
    masks = {"it is a weekday": weekday < 5, "it is a weekend": weekday >= 5}
    for name in group.model_names:
        values = later[name].astype("float64")
        middle = values.median()
        masks |= {
            f"{name} <= {middle:g}": (values <= middle).to_numpy(), f"{name} > {middle:g}": (values > middle).to_numpy(),
            f"{name} is missing": values.isna().to_numpy(),
        }  # fmt: skip
    for name, mask in masks.items():
        if mask.sum() >= MIN_SLICE and 0 < labels[mask].sum() < mask.sum():
            new, old = (Ranking(entities[mask], labels[mask], scores[mask]) for scores in (candidate, champion))
            much_worse = new.auc() < old.auc() - TOLERANCE_SLICE_AUC
            difference = auc_difference(old, new, paired=True, confidence=SLICE_CONFIDENCE) if much_worse else None
            yield Slice(name, int(mask.sum()), new.auc(), old.auc(), difference)


def _predict_ms(booster: Any, group: FeatureGroup) -> float:
    one, seconds = np.array([group.model_input({})]), []
    for _ in range(200):
        started = time.perf_counter()
        booster.predict(one, num_threads=1)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1_000
