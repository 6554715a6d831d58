"""The gain of fresh features in a demo: the model on merged features against its twin on batch features, on the same later rows.

Reads the evaluation rows of the training set, and for each of both champions the version that was not fitted on these rows. The confidence
interval is that of `models.ranking`, by a bootstrap over entities.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from features.model import Model
from infra.settings import Settings
from models.evaluation import evaluate
from models.ranking import Ranking, difference
from models.registry import CHAMPION, EVALUATED_TAG, batch_only_name, load_scorer, version_by_alias

MERGED, BATCH = "merged", "batch_only"


def gain(settings: Settings, model: Model) -> dict[str, Any]:
    """Evaluates the champion and its twin, which predict a probability, on the evaluation rows.

    Returns:
        `rows` and `positives`; `auc`, `average_precision` and `log_loss`, each with `merged` and `batch_only`; and `auc_difference` with its 95 %
        confidence interval: `value`, `low` and `high`, or None if all rows have the same label.
    """
    from infra.spark import spark_session

    spark = spark_session(settings, "braid demo", settings.batch_memory)
    rows: pd.DataFrame = (
        spark.read.format("delta").load(settings.table(model.training_table)).where("split = 'evaluation'").toPandas()
    )
    labels, entities = rows["label"].to_numpy(), rows["entity"].to_numpy()
    evaluations, rankings = {}, {}
    for variant, name, prefix in ((MERGED, model.name, ""), (BATCH, batch_only_name(model.name), "batch_")):
        champion = version_by_alias(settings, name, CHAMPION)
        assert champion is not None
        scorer = load_scorer(settings, name, champion.tags.get(EVALUATED_TAG, champion.version))
        scores = scorer.predict(model.vector.matrix(rows, prefix), threads=2)
        evaluations[variant] = evaluate(model.objective, labels, scores)
        rankings[variant] = Ranking(entities, labels, scores)
    compared = difference(rankings[BATCH], rankings[MERGED], paired=True, confidence=0.95)
    return {
        "rows": len(rows), "positives": int(labels.sum()),
        **{
            measure: {variant: evaluation[measure] for variant, evaluation in evaluations.items()}
            for measure in ("auc", "average_precision", "log_loss")
        },
        "auc_difference": None if compared is None else {"value": compared.value, "low": compared.low, "high": compared.high},
    }  # fmt: skip
