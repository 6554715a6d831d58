"""Makes the records of a model's answers in the served log: one record per input. The records of one answer share `answer_id`.

The record of the first input, whose entity the model is about, also has the answer: the request columns, the value by which the outcome will be
joined, the variant, the prediction, and the predictions of shadow variants. A request only makes one function per record. The thread of
`serving.served_log` calls the functions, so no answer waits for the predictions of shadow variants.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from features.instants import now_ms
from features.model import Model
from serving.answer import ServedInput
from serving.encoding import Provenance
from serving.model import LoadedModel, Prediction
from serving.request_ids import current_request_id
from serving.served_log import Record, ServedLog, served_record
from serving.variants import Models, Variant


class Answered(NamedTuple):
    """One prediction with its inputs: the answer of `predict`, or the part of the answer of `score` about one candidate.

    Attributes:
        inputs: The inputs, in the order of the declaration.
        provenances: The provenance of each input.
        request: Request column → value.
        outcome_id: The value by which the outcome of the answer will be joined; None if the request does not have it.
        predicted: The prediction.
    """

    inputs: Sequence[ServedInput]
    provenances: Sequence[Provenance]
    request: Mapping[str, Any]
    outcome_id: int | str | None
    predicted: Prediction


class AnswerLog:
    """Logs the answers of one model.

    Args:
        declared: The declaration of the model.
        models: The champion and the variants.
        log: The served log.
        most_candidates: The largest number of candidates of one request that are logged.
    """

    def __init__(self, declared: Model, models: Models, log: ServedLog, most_candidates: int) -> None:
        self._outcome_key = declared.outcome_key  # computed once, because it parses the outcome's condition
        self._models, self._log, self._most_candidates = models, log, most_candidates

    def wants(self, subject: int | str, exposed: bool) -> bool:
        """Returns whether an answer about an entity is logged: if it counts in an experiment, or if the entity is in the logged share."""
        return exposed or self._log.wants(subject)

    def places(self, subjects: Sequence[int | str], exposed: bool) -> Sequence[int]:
        """Returns the positions of the candidates that are logged.

        These are the candidates whose first entity is logged. If they are more than `most_candidates`, so many of them are drawn at random.

        Args:
            subjects: The id of the first entity of each candidate.
            exposed: Whether the answer counts in the running experiment.
        """
        if not self._most_candidates:
            return ()
        logged = {subject for subject in dict.fromkeys(subjects) if self.wants(subject, exposed)}
        places = [place for place, subject in enumerate(subjects) if subject in logged] if logged else []
        # The draw does not depend on the scores, so the logged candidates represent all candidates.
        return places if len(places) <= self._most_candidates else random.sample(places, self._most_candidates)  # nosec B311

    def outcome_id(self, fields: Mapping[str, Any]) -> int | str | None:
        """Returns the value by which the outcome will be joined; None if the outcome declares no `join`, or if the request has no such value.

        Args:
            fields: Field or request column → value.
        """
        value: int | str | None = None if self._outcome_key is None else fields.get(self._outcome_key.name)
        return value

    def add(
        self,
        answer: Answered,
        q_ms: int,
        variant: Variant,
        model: LoadedModel,
        exposed: bool,
        inputs_of: Callable[[bool], Sequence[ServedInput]],
    ) -> None:
        """Puts the records of an answer into the log.

        Args:
            answer: The answer.
            q_ms: The time of the request, in ms since 1970.
            variant: The variant that answered.
            model: The model of that variant.
            exposed: Whether the answer counts in the running experiment.
            inputs_of: Returns the inputs of a shadow variant. Its argument is whether the variant gets batch features alone.
        """
        answer_id, served_at_ms = uuid.uuid4().hex, now_ms()
        request_id = current_request_id()  # read here, because the thread of the log has no current request
        experiment = self._models.experiment.name if exposed and self._models.experiment else None
        shadows = self._models.shadows(variant) if exposed else []

        def outcome() -> dict[str, Any]:
            predictions: dict[str, Prediction] = {
                other.name: _predicted(its, inputs_of(other.batch_only), answer.request, q_ms) for other, its in shadows
            }
            of_classes = isinstance(answer.predicted, dict)
            numbers_of_shadows, classes_of_shadows = _logged(predictions)
            return {
                "experiment": experiment, "variant": variant.name, "model": model.name, "model_version": model.version,
                "prediction": None if of_classes else answer.predicted, "predictions": answer.predicted if of_classes else None,
                "shadows": numbers_of_shadows, "shadow_predictions": classes_of_shadows,
                "degraded_inputs": [
                    entry.name for (entry, _, _), its in zip(answer.inputs, answer.provenances, strict=True) if its.degraded
                ],
                "request": answer.request, "outcome_id": None if answer.outcome_id is None else str(answer.outcome_id),
            }  # fmt: skip

        def record(place: int) -> Record:
            entry, entity_id, its = answer.inputs[place]
            more = {"answer_id": answer_id, "input": entry.name, **(outcome() if place == 0 else {})}
            return served_record(entry.group, entity_id, its, answer.provenances[place], q_ms, served_at_ms, more, request_id)

        for place in range(len(answer.inputs)):
            self._log.add(partial(record, place))


def _predicted(model: LoadedModel, inputs: Sequence[ServedInput], request: Mapping[str, Any], q_ms: int) -> Prediction:
    values, _ = model.input_of([entry for entry, _, _ in inputs], [its.merged.values for _, _, its in inputs], request, q_ms)
    return model.predict([values])[0]


def _logged(predictions: Mapping[str, Prediction]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Splits predictions into numbers and probabilities of classes, because the served log has a column for each kind."""
    numbers = {name: value for name, value in predictions.items() if not isinstance(value, dict)}
    return numbers, {name: value for name, value in predictions.items() if isinstance(value, dict)}
