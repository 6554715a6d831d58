"""Promotion: the alias `champion` moves to a candidate that passes the gate.

Reads the evaluation rows of the training set, two registered versions, and the result of the last consistency check; writes the alias that
serving follows. The gate has these conditions. On the evaluation rows, the candidate is no worse than the champion by the criteria of the objective,
such as ranking (AUC) and probabilities (log loss), and not much worse on any slice. The candidate predicts fast enough. The last consistency check
has no defect.

Neither of the compared versions was trained on the evaluation rows. A candidate that passes the gate is fitted again on all rows of the training
set, and this fit becomes champion. A tag of the new champion names the compared version, which the next gate compares again.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from features.model import Model
from features.objective import Objective
from features.vector import FeatureVector
from infra.settings import Settings
from models.evaluation import CRITERIA, Evaluation, evaluate, of_labels
from models.formats import Scorer, scorer_of
from models.registry import (
    CHALLENGER,
    CHAMPION,
    DIGEST_TAG,
    EVALUATED_TAG,
    FIT_TAG,
    HELD_OUT,
    LEARNT_TAG,
    OBJECTIVE_TAG,
    TWIN_TAG,
    batch_only_name,
    crown_twin,
    load_scorer,
    other_outcome,
    read_version,
    trained_fingerprint,
    version_by_alias,
    version_of,
)  # fmt: skip
from models.slices import Slice, slices_of
from models.training import MIN_ROWS, fit_on_all_rows

#: The largest median time of one prediction, in milliseconds. A whole request should take at most 10 ms.
MAX_PREDICT_MS = 5.0
#: The tag of a promoted version: "true" if served answers had been checked before the promotion and had no defect, else "false".
PROVEN_TAG = "proven"
#: The end of the reason of a promotion before which no served answer had been checked.
UNPROVEN = "Unknown: nothing served was checked."


@dataclass(frozen=True)
class PromotionReport:
    """The result of the gate.

    Attributes:
        promoted: Whether the candidate was promoted.
        reason: Why the candidate was promoted or refused, in a sentence.
        champion_version: The version of the champion after the gate; empty without a champion.
        proven: Whether served answers had been checked and had no defect.
        candidate: The evaluation of the candidate; None without a comparison.
        champion: The evaluation of the previous champion; None without a comparison.
        slices: The compared slices.
        predict_ms: The candidate's median time of one prediction, in milliseconds; None if it was not measured.
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
    """Compares the candidate with the champion. If the candidate passes the gate, makes the candidate's fit on all rows the champion.

    The write of the champion's alias is the promotion. The tags of the version are written before that alias. The alias of the twin is written
    after it, from a tag of the champion; if the run ends in between, the next call writes the alias of the twin. A version that braid has not trained
    becomes champion without a second fit.

    Args:
        settings: The settings that name the MLflow server.
        model: The declaration.
        candidate_version: A version of the registered model.
        rows: The training set of the candidate.
        defects: The number of defects in the last consistency check; None if no served answer was checked.
        twin_version: The version of the batch-only twin, whose fit on all rows becomes champion under the twin's name.

    Raises:
        BraidError: The fit on all rows cannot be served (`models.formats.stored_model`).
        MlflowException: The registry does not answer, or has no such version.
        OSError: The artifacts cannot be read.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client, name, vector = MlflowClient(settings.mlflow_tracking_uri), model.name, model.vector
    present = version_by_alias(settings, name, CHAMPION)
    version = present.version if present else ""
    compared_version = present.tags.get(EVALUATED_TAG, version) if present else ""
    proven = defects == 0

    def crown(reason: str, **figures: Any) -> PromotionReport:
        reason = reason if proven else f"{reason} {UNPROVEN}"
        twin = fit_again(batch_only_name(name), twin_version, {}) if twin_version else None
        tags = {"promotion": reason, PROVEN_TAG: str(proven).lower(), **({TWIN_TAG: twin} if twin else {})}
        for key, value in {**tags, DIGEST_TAG: stored.digest}.items():
            client.set_model_version_tag(name, candidate_version, key, value)
        champion = fit_again(name, candidate_version, tags)
        client.set_registered_model_alias(name, CHAMPION, champion)
        crown_twin(settings, name, tags)
        challenger = version_by_alias(settings, name, CHALLENGER)
        if challenger is not None and challenger.version == candidate_version:
            client.set_registered_model_alias(name, CHALLENGER, champion)
        return PromotionReport(True, reason, champion, proven, **figures)

    def fit_again(registered_name: str, evaluated_version: str, tags: dict[str, str]) -> str:
        evaluated = version_of(settings, registered_name, evaluated_version)
        if evaluated.tags.get(FIT_TAG) != HELD_OUT:
            return evaluated_version
        return fit_on_all_rows(settings, model, rows, registered_name, evaluated, tags)

    def refuse(reason: str, **figures: Any) -> PromotionReport:
        client.set_model_version_tag(name, candidate_version, "promotion", reason)
        return PromotionReport(False, reason, version, proven, **figures)

    # The alias of the twin is out of date if a run ended between the two writes, or if a user moved the champion.
    if present is not None:
        crown_twin(settings, name, present.tags)
    if candidate_version in (version, compared_version):
        return PromotionReport(False, "The candidate is the champion already.", version, proven)
    if defects:
        return refuse(f"Served values differ from the training set: the last check of consistency has {defects} defects.")
    try:
        stored = read_version(settings, name, candidate_version)
        scorer = scorer_of(stored)
    except ValueError as error:
        return refuse(f"The candidate cannot be loaded: {error}.")
    if scorer.names != vector.names:
        return refuse("The features of the candidate are not the declared features.")
    tags = version_of(settings, name, candidate_version).tags
    if (trained_fingerprint(tags) or vector.fingerprint) != vector.fingerprint or other_outcome(tags, model):
        return refuse("The candidate was trained on another version of the declaration.")
    if scorer.objective is not model.objective:
        return refuse(f"The candidate is of the objective {scorer.objective}, and {model.objective} is declared.")
    figures: dict[str, Any] = {"predict_ms": _predict_ms(scorer, vector)}
    if figures["predict_ms"] > MAX_PREDICT_MS:
        return refuse(
            f"The candidate takes {figures['predict_ms']:.1f} ms for one prediction; {MAX_PREDICT_MS:g} are allowed.", **figures
        )
    if present is None:
        return crown("There was no champion.", **figures)
    if (
        trained_fingerprint(present.tags) != vector.fingerprint
        or other_outcome(present.tags, model)
        or present.tags.get(OBJECTIVE_TAG, Objective.BINARY) != model.objective
    ):
        return crown(
            f"The champion, version {version}, was trained on another version of the declaration and cannot be compared.", **figures
        )
    try:
        present_scorer = load_scorer(settings, name, compared_version)
        learnt = version_of(settings, name, compared_version).tags.get(LEARNT_TAG)
    except (ValueError, OSError, MlflowException) as error:
        # If the registry or its artifacts cannot be reached now, this raises as well, and the champion stays.
        read_version(settings, name, candidate_version)
        return crown(f"The champion, version {version}, cannot be loaded and compared: {error}", **figures)
    later = rows[rows["split"] == "evaluation"]
    if learnt is not None:  # of other training sets, such as one of before older events were loaded, it may have learnt later rows
        later = later[later["q_ms"] > int(learnt)]
    labels, x = later["label"].to_numpy(), vector.matrix(later)
    if len(labels) < MIN_ROWS or len(set(labels)) < 2:
        return refuse(
            f"The candidate cannot be compared on {len(labels)} later rows that the champion has not learnt; {MIN_ROWS} rows with different labels are needed.",
            **figures,
        )
    criteria = CRITERIA[model.objective]
    new, old = scorer.predict(x, threads=2), present_scorer.predict(x, threads=2)
    if fault := scorer.fault(new):
        return refuse(f"The candidate cannot be used: {fault}.", **figures)
    candidate = evaluate(model.objective, labels, new, scorer.classes)
    champion = evaluate(model.objective, labels, old, present_scorer.classes)
    of_label = (new, old)
    if model.objective is Objective.MULTICLASS:
        of_label = of_labels(labels, new, scorer.classes), of_labels(labels, old, present_scorer.classes)
    slices = tuple(slices_of(model, later, *of_label))
    figures |= {"candidate": candidate, "champion": champion, "slices": slices}
    values = " and ".join(f"{entry.words} {candidate[entry.metric]:.4f} against {champion[entry.metric]:.4f}" for entry in criteria)
    as_fitted = ", as fitted before the evaluation," if compared_version != version else ""
    compared = f"{values} of version {version}{as_fitted} on {len(later)} later rows"
    if any(entry.worse(candidate, champion) for entry in criteria):
        return refuse(f"The candidate is worse: {compared}.", **figures)
    worst = max((part for part in slices if part.worse), key=lambda part: abs(part.candidate - part.champion), default=None)
    if worst is not None:
        return refuse(f"The candidate is worse where {worst.name}: {worst.text} of version {version}.", **figures)
    on_slices = f", nor much worse on any of {len(slices)} slices" if slices else ""
    return crown(f"The candidate is no worse: {compared}{on_slices}.", **figures)


def _predict_ms(scorer: Scorer, vector: FeatureVector) -> float:
    row, seconds = np.array([vector.empty()]), []
    for _ in range(200):
        started = time.perf_counter()
        scorer.predict(row)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1_000
