"""The Prometheus metrics of serving, at `/metrics` together with BentoML's own counts of requests by status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from features.declaration import FeatureGroup
from features.model import Model
from serving.answer import Served
from serving.stages import Stages
from serving.tracing import trace_stages

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_STAGE_SECONDS = (0.000_1, 0.000_25, 0.000_5, *_SECONDS)
_SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 5)


class Metrics:
    """The metrics of one worker process.

    Create it after the worker has set the folder in which prometheus_client combines the metrics of several processes.

    Args:
        models: The declared models. Their budgets become bounds of the histograms.
    """

    def __init__(self, models: Sequence[Model] = ()) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        budgets = [model.budget_ms for model in models if model.budget_ms is not None]
        self._seconds = Histogram("braid_answer_seconds", "Time to answer.", ["endpoint"], buckets=bounds(_SECONDS, budgets))
        self._stage_seconds = Histogram(
            "braid_stage_seconds",
            "Time of a stage of an answer: store, decode, merge, model, encode.",
            ["endpoint", "model", "stage"],
            buckets=bounds(_STAGE_SECONDS, budgets),
        )
        self._rows = Counter("braid_rows", "Entities answered for: exact, degraded, or unknown to both layers.", ["group", "state"])
        self._age = Gauge(
            "braid_newest_event_age_seconds",
            "From the newest event in the last answer to the time that it was asked for.",
            ["group"],
            multiprocess_mode="mostrecent",
        )
        self._version = Gauge(
            "braid_champion_version", "Version of the model that answers; 0 for none.", multiprocess_mode="mostrecent"
        )
        self._version.set(0)
        self._newest = Gauge(
            "braid_newest_event_timestamp_seconds",
            "Time of the newest event of a group in the online store, since 1970.",
            ["group"],
            multiprocess_mode="mostrecent",
        )
        self._budget = Histogram(
            "braid_budget_used", "Share of the model's budget that an answer took.", ["model"], buckets=_SHARES
        )
        self._late = Counter(
            "braid_late_answers", "Answers without features, because the online store was too late for the budget.", ["model"]
        )
        self._variants = Counter(
            "braid_predictions", "Predictions by the variant that answered. Each candidate of a score is one.", ["variant"]
        )
        self._lost = Counter("braid_served_log_lost", "Records of the served log that did not reach Kafka.")
        self._shed = Counter("braid_shed", "Requests refused, because as many as the bound allows were in work.", ["path"])
        # The look-ups are cached, because prometheus_client validates the labels at each look-up.
        self._seconds_of, self._rows_of, self._age_of = (
            cache(self._seconds.labels),
            cache(self._rows.labels),
            cache(self._age.labels),
        )
        self._budget_of, self._variant_of = cache(self._budget.labels), cache(self._variants.labels)
        self._stage_of = cache(self._stage_seconds.labels)

    def answered(self, endpoint: str, stages: Stages, model: Model | None = None) -> None:
        """Records the time of an answer and of each of its stages, in the metrics and as spans of the request's trace.

        Args:
            endpoint: The kind of the answer: "features", "predict" or "score".
            stages: The times of the stages.
            model: The model that answered; None for features.
        """
        seconds, name = stages.whole_seconds, "" if model is None else model.name
        self._seconds_of(endpoint).observe(seconds)
        for stage, its_seconds in stages.seconds.items():
            self._stage_of(endpoint, name, stage).observe(its_seconds)
        if model is not None and model.budget_ms is not None:
            self._budget_of(model.name).observe(seconds * 1_000 / model.budget_ms)
        trace_stages(stages)

    def late(self, model: str) -> None:
        """Counts a request to a model for which the online store did not answer within the budget."""
        self._late.labels(model).inc()

    def counted(self, group: FeatureGroup, rows: Sequence[Served], q_ms: int) -> None:
        """Counts the entities of a group in an answer by their state, and sets the age of the newest event.

        Args:
            group: The group.
            rows: The features of each entity.
            q_ms: The time of the request, in ms since 1970.
        """
        states: dict[str, int] = {}
        for its in rows:
            state = "degraded" if its.merged.reasons or its.parts.faults else "exact" if its.parts.known else "unknown"
            states[state] = states.get(state, 0) + 1
        for state, n in states.items():
            self._rows_of(group.name, state).inc(n)
        newest_ms = max([its.merged.newest_event_ms or 0 for its in rows], default=0)
        if newest_ms:
            self._age_of(group.name).set((q_ms - newest_ms) / 1_000)

    def newest_event(self, group: str, newest_ms: int) -> None:
        """Sets the time of a group's newest event. A Prometheus rule subtracts that time from `time()` to get the age."""
        self._newest.labels(group).set(newest_ms / 1_000)

    def predicted(self, variant: str, predictions: int = 1) -> None:
        """Counts predictions of a variant."""
        self._variant_of(variant).inc(predictions)

    def shed(self, path: str) -> None:
        """Counts a request that was refused because the number of requests in work was at its bound."""
        self._shed.labels(path).inc()

    def lost(self, records: int) -> None:
        """Counts records of the served log that were lost."""
        self._lost.inc(records)

    def champion(self, version: str) -> None:
        """Sets the version of the champion."""
        self._version.set(int(version))


def bounds(seconds: Iterable[float], budgets_ms: Iterable[float]) -> tuple[float, ...]:
    """Returns the bounds of a histogram, in seconds: the fixed bounds, and half, once and twice each budget.

    Because each budget is a bound, the share of the answers within a budget is exact and not interpolated between two bounds.
    """
    return tuple(sorted({*seconds, *(round(ms * share / 1_000, 6) for ms in budgets_ms for share in (0.5, 1, 2))}))
