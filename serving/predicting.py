"""Answers the requests to one model.

Reads the features of all inputs from the online store, and predicts with the loaded model of a variant; returns the encoded answer; adds records
to the served log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from features.declaration import FeatureGroup
from features.instants import now_ms
from features.model import Model, WhenLate
from infra.settings import Settings
from serving.answer import Provenances, Served, ServedInput, Stale, combined, features_at, prediction, with_derived
from serving.answer_log import Answered, AnswerLog
from serving.contract import PredictRequest
from serving.encoding import CandidateScore, ModelInfo, ScoreAnswer, encoded
from serving.errors import RefusalError
from serving.freshness import Freshness
from serving.ids import key_of
from serving.metrics import Metrics
from serving.model import LoadedModel
from serving.served_log import ServedLog
from serving.stages import Stages
from serving.tracing import trace_request
from serving.variants import Models, Variant
from store.protocol import Parts, Reading
from store.reading import OnlineStore, Wanted, unread


def tiles_kept_ms(settings: Settings, group: FeatureGroup) -> int:
    """Returns how long the online store keeps the speed tiles of a group, in milliseconds."""
    return settings.tiles_kept_seconds(group.buffer_ms) * 1_000


class Predictor:
    """Answers the requests to one model.

    Args:
        settings: The settings.
        declared: The declaration of the model.
        models: The champion and the variants.
        store: The online store.
        freshness: The ages of the groups.
        served_log: The served log.
        metrics: The metrics of this process.
    """

    def __init__(
        self, settings: Settings, declared: Model, models: Models, store: OnlineStore, freshness: Freshness, served_log: ServedLog, metrics: Metrics
    ) -> None:  # fmt: skip
        self._settings, self._declared, self._models, self._store = settings, declared, models, store
        self._freshness, self._metrics = freshness, metrics
        self._log = AnswerLog(declared, models, served_log, settings.served_candidates)
        self._inputs = declared.vector.inputs
        #: The fields of a request that are not request columns: the keys, and the field by which the outcome will be joined.
        self._fields = [*declared.vector.keys, *([declared.outcome_field] if declared.outcome_field else [])]
        self._late: set[asyncio.Task[list[Reading]]] = set()

    async def predict(self, request: PredictRequest) -> bytes:
        """Answers a request for one prediction. Returns the answer as JSON.

        The champion answers, or in a running experiment the variant of the entity of the first input.

        Raises:
            RefusalError: An id, the time or the use case is refused, no model can answer, or the store is too late and the model refuses then.
        """
        stages = Stages()
        trace_request("predict", self._declared.name)
        ids = [key_of(entry, [{key: getattr(request, key) for key in entry.keys}])[0] for entry in self._inputs]
        variant, model, exposed = self._chosen(ids[0])
        context = {column.name: getattr(request.context, column.name) for column in self._declared.request}
        q_ms = now_ms() if request.at is None else request.at
        stale = self._stale(request.use_case, q_ms)
        wanted = [(entry.group, [key]) for entry, key in zip(self._inputs, ids, strict=True)]
        readings, score = await self._read(wanted, stages)
        stages.read(sum(reading.decode_seconds for reading in readings))
        inputs = [replace(entry, group=reading.group) for entry, reading in zip(self._inputs, readings, strict=True)]

        def served(batch_only: bool) -> list[ServedInput]:
            return [
                ServedInput(entry, entity_id, self._serve(reading, old, q_ms, batch_only)(reading.parts[0]))
                for entry, entity_id, reading, old in zip(inputs, ids, readings, stale, strict=True)
            ]

        answered = served(variant.batch_only)
        stages.end("merge")
        answer = prediction(answered, context, q_ms, model, variant.name, score, self._settings.architecture)
        stages.end("model")
        response = encoded(answer)
        stages.end("encode")

        def afterwards() -> None:
            self._metrics.predicted(variant.name)
            if self._log.wants(ids[0], exposed):
                provenances = [answer.provenance] if len(inputs) == 1 else list(answer.inputs.values())
                outcome_id = self._log.outcome_id({**_told(request, self._fields), **context})
                logged = Answered(answered, provenances, context, outcome_id, answer.prediction)
                self._log.add(logged, q_ms, variant, model, exposed, served)
            for entry, _, its in answered:
                self._metrics.counted(entry.group, [its], q_ms)
            self._metrics.answered("predict", stages, self._declared)

        asyncio.get_running_loop().call_soon(afterwards)  # runs after the answer, so the caller does not wait
        return response

    async def score(self, request: Any) -> bytes:
        """Answers a request for predictions about many candidates, at one time. Returns the answer as JSON. Each entity is read and merged once.

        The champion answers. In a running experiment, if all candidates have the same entity of the first input, the variant of that entity answers.

        Raises:
            RefusalError: As for `predict`, or a candidate lacks a key or a required request column.
        """
        stages = Stages()
        trace_request("score", self._declared.name)
        common = _told(request, self._fields)
        candidates = [common | _told(candidate, self._fields) for candidate in request.candidates]
        ids, contexts = [key_of(entry, candidates) for entry in self._inputs], self._contexts(request)
        q_ms = now_ms() if request.at is None else request.at
        stale = self._stale(request.use_case, q_ms)
        different = [list(dict.fromkeys(its)) for its in ids]
        variant, model, exposed = self._chosen(different[0][0] if len(different[0]) == 1 else None)
        readings, late_score = await self._read(
            [(entry.group, its) for entry, its in zip(self._inputs, different, strict=True)], stages
        )
        stages.read(sum(reading.decode_seconds for reading in readings))
        inputs = [replace(entry, group=reading.group) for entry, reading in zip(self._inputs, readings, strict=True)]
        served: list[dict[int | str, Served]] = []
        for reading, old, entities in zip(readings, stale, different, strict=True):
            serve = self._serve(reading, old, q_ms, variant.batch_only)
            served.append({entity_id: serve(parts) for entity_id, parts in zip(entities, reading.parts, strict=True)})
        stages.end("merge")
        vectors, fault = list[list[float]](), None
        for place, context in enumerate(contexts):
            values = [known[of_input[place]].merged.values for known, of_input in zip(served, ids, strict=True)]
            vector, fault = model.input_of(inputs, values, context, q_ms)
            vectors.append(vector)
        scores = model.predict(vectors) if late_score is None else [late_score for _ in vectors]
        stages.end("model")
        reason, lost, others = fault or ("", [()] * len(inputs), ())
        provenances = []
        for entry, known, its_lost in zip(inputs, served, lost, strict=True):
            shared = Provenances(entry.group.feature_names, q_ms, self._settings.architecture)
            provenances.append({entity_id: shared.of(features, reason, its_lost) for entity_id, features in known.items()})
        rows = [
            CandidateScore(score, any(its[of_input[place]].degraded for its, of_input in zip(provenances, ids, strict=True)))
            for place, score in enumerate(scores)
        ]

        def inputs_at(place: int, batch_only: bool | None = None) -> list[ServedInput]:
            entities = [of_input[place] for of_input in ids]
            whole = [known[entity_id] for known, entity_id in zip(served, entities, strict=True)]
            if batch_only is not None:
                whole = [
                    self._serve(reading, old, q_ms, batch_only)(its.parts)
                    for reading, old, its in zip(readings, stale, whole, strict=True)
                ]
            return [ServedInput(*parts) for parts in zip(inputs, entities, whole, strict=True)]

        everything = [(entry, provenance) for entry, its in zip(inputs, provenances, strict=True) for provenance in its.values()]
        info = ModelInfo(model.name, model.version, variant.name)
        response = encoded(ScoreAnswer(rows, info, with_derived(combined(everything), model.vector, others)))
        stages.end("encode")

        def afterwards() -> None:
            self._metrics.predicted(variant.name, len(scores))
            for place in self._log.places(ids[0], exposed):
                context = {column.name: contexts[place].get(column.name) for column in self._declared.request}
                outcome_id = self._log.outcome_id({**candidates[place], **context})
                shown = [its[of_input[place]] for its, of_input in zip(provenances, ids, strict=True)]
                logged = Answered(inputs_at(place), shown, context, outcome_id, scores[place])
                self._log.add(logged, q_ms, variant, model, exposed, partial(inputs_at, place))
            for entry, known in zip(inputs, served, strict=True):
                self._metrics.counted(entry.group, list(known.values()), q_ms)
            self._metrics.answered("score", stages, self._declared)

        asyncio.get_running_loop().call_soon(afterwards)  # runs after the answer, so the caller does not wait
        return response

    async def _read(self, wanted: Wanted, stages: Stages) -> tuple[list[Reading], float | None]:
        """Reads the store within the budget. Returns one reading per group, and the declared prediction if the store is late.

        If the store is late, the readings have empty parts with the reason. The prediction is None if the store is in time, or if the model
        predicts on the declared defaults.

        Raises:
            RefusalError: The store is late, and the model refuses then.
        """
        budget_ms, when_late = self._declared.budget_ms, self._declared.when_late
        if budget_ms is None:
            return await self._store.read_all(wanted), None
        # Other requests share the round trip, so it continues when this request stops waiting.
        reading = asyncio.create_task(self._store.read_all(wanted))
        await asyncio.wait({reading}, timeout=max(0.0, budget_ms / 1_000 - (time.perf_counter() - stages.started)))
        if reading.done():
            return reading.result(), None
        self._late.add(reading)
        reading.add_done_callback(self._late.discard)
        self._metrics.late(self._declared.name)
        fault = f"the online store has not answered within the budget of {budget_ms:g} ms"
        if when_late is WhenLate.REFUSE:
            raise RefusalError(
                503, f"{fault[0].upper()}{fault[1:]}.", f"The model {self._declared.name} gives no answer then; ask again."
            )
        readings = [unread(group, len(ids), fault) for group, ids in wanted]
        return readings, None if isinstance(when_late, WhenLate) else when_late

    def _chosen(self, subject: int | str | None) -> tuple[Variant, LoadedModel, bool]:
        """Returns the variant that answers, its model, and whether the answer counts in the experiment; without a subject the champion answers.

        Raises:
            RefusalError: No model can answer.
        """
        variant, model, exposed = self._models.of(subject)
        if model is None:
            raise RefusalError(
                503,
                f"No champion can answer: {self._models.champion.fault}.",
                "Train one by `braid backfill`.",
                self._settings.alias_poll_seconds,
            )
        return variant, model, exposed

    def _stale(self, use_case: str | None, q_ms: int) -> list[Stale | None]:
        return [self._freshness.stale(use_case, entry.group.name, q_ms) for entry in self._inputs]

    def _serve(self, reading: Reading, stale: Stale | None, q_ms: int, batch_only: bool) -> Callable[[Parts], Served]:
        return features_at(reading, q_ms, tiles_kept_ms(self._settings, reading.group), stale, batch_only)

    def _contexts(self, request: Any) -> list[dict[str, Any]]:
        """Returns the request columns of each candidate: the values of the candidate, else those in the `context` of the request.

        Raises:
            RefusalError: A candidate lacks a required request column.
        """
        names = [column.name for column in self._declared.request]
        common = _told(request.context, names) if names else {}
        contexts = [common | _told(candidate, names) for candidate in request.candidates]
        for place, context in enumerate(contexts):
            lacks = next((column.name for column in self._declared.request if column.required and column.name not in context), None)
            if lacks is not None:
                raise RefusalError(
                    422,
                    f"The candidate at position {place} has no {lacks}.",
                    "Give it to the candidate or to the context of the request.",
                )
        return contexts


def _told(message: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns the fields `names` of a message that have a value."""
    return {name: value for name in names if (value := getattr(message, name)) is not None}
