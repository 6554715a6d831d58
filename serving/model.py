"""Loads the model of an alias in the registry, such as the champion, and replaces it when the alias moves to another version.

A thread polls MLflow's registry, so that a request never waits for it. A version that cannot be loaded, or whose features are not declared, is
refused, and the previous version continues to answer.

A model gets its features by name. If the model was trained on another version of the declaration, each feature with the same meaning in both versions
is passed on. Every other feature is replaced by its declared default, and the answer is marked as degraded.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from features.aggregations import Value
from features.declaration import ModelInput
from features.declaration.versions import same_meaning
from features.errors import DeclarationError
from features.model import Model
from features.objective import Objective
from features.vector import FeatureVector, vector_of_text
from infra.settings import Settings
from models.formats import Scorer
from models.registry import DIGEST_TAG, load_scorer, other_outcome, trained_fingerprint, version_by_alias
from serving.one_row import one_row_scorer

_log = logging.getLogger("serving")
#: The number of polls after which a refused version is loaded again, because its files may have been unreachable for a short time.
_POLLS_UNTIL_RETRY = 10


#: A prediction: a probability, a number, or class → probability.
Prediction = float | dict[str, float]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        name: The registered name.
        version: The registered version.
        scorer: The fitted model.
        vector: The declaration of the input that the model was trained on.
        fault: Why every answer of the model is degraded; empty if there is no such reason.
        unknown_meaning: Whether the declaration that the model was trained on cannot be read, so that each feature may mean something else.
    """

    name: str
    version: str
    scorer: Scorer
    vector: FeatureVector
    fault: str = ""
    unknown_meaning: bool = False
    _known: dict[tuple[str, ...], _Known] = field(default_factory=dict, compare=False, repr=False)

    def predict(self, inputs: Sequence[Sequence[float]]) -> list[Prediction]:
        """Returns one prediction for each input.

        Args:
            inputs: For each prediction, the values of `vector.names`.

        Raises:
            ValueError: A prediction is not a probability, or not a finite number, as the objective requires.
        """
        one_row = self._one_row
        predictions = (
            np.array([one_row(inputs[0])])
            if len(inputs) == 1 and one_row is not None
            else self.scorer.predict(np.array(inputs, dtype=np.float64))
        )
        if fault := self.scorer.fault(predictions):
            raise ValueError(f"Version {self.version} of {self.name} cannot answer: {fault}.")
        if self.scorer.objective is Objective.MULTICLASS:
            return [dict(zip(self.scorer.classes, row, strict=True)) for row in predictions.tolist()]
        numbers: list[Prediction] = predictions.tolist()
        return numbers

    @cached_property
    def _one_row(self) -> Callable[[Sequence[float]], float] | None:
        return one_row_scorer(self.scorer.native)

    def input_of(
        self, inputs: Sequence[ModelInput], values: Sequence[Sequence[Value]], request: Mapping[str, Any], q_ms: int
    ) -> tuple[list[float], InputFault | None]:
        """Returns the values of the model's input, and why the input is degraded; None if it is not.

        Args:
            inputs: The declared inputs, each with the served version of its group.
            values: For each of `inputs`, one value per feature of its group.
            request: Request column → value.
            q_ms: The time of the request, in ms since 1970.
        """
        served = tuple(entry.group.fingerprint for entry in inputs)
        known = self._known.get(served) or self._known.setdefault(served, self._known_of(inputs))
        features = [
            {name: values[place][index] for name, index in indices.items()} if place is not None else {}
            for place, indices in known.places
        ]
        return self.vector.of(features, request, q_ms), known.fault

    def _known_of(self, inputs: Sequence[ModelInput]) -> _Known:
        places: list[tuple[int | None, dict[str, int]]] = []
        missing: list[str] = []
        features: list[list[str]] = [[] for _ in inputs]
        others: list[str] = []
        by_key = {(entry.group.name, entry.keys): place for place, entry in enumerate(inputs)}
        for trained in self.vector.inputs:
            place = by_key.get((trained.group.name, trained.keys))
            known = {} if place is None else same_meaning(inputs[place].group, trained.group)
            names = trained.group.model_names
            places.append((place, {name: known[name] for name in names if name in known}))
            lost = [name for name in names if name not in known]
            missing += [f"{trained.prefix}{name}" for name in lost]
            if place is None:
                others += [f"{trained.prefix}{name}" for name in lost]
            else:
                features[place] += names if self.unknown_meaning else lost
        reason = self.fault or (f"the model was trained on another version of {', '.join(missing)}" if missing else "")
        return _Known(tuple(places), InputFault(reason, features, others) if reason else None)


class InputFault(NamedTuple):
    """Why the input of a model is degraded.

    Attributes:
        reason: The degraded reason in the answer.
        features: For each served input, the names of the features of the model's input that may have another value than the model was trained on.
        others: The same of inputs that are not served, with the prefixes of the trained inputs.
    """

    reason: str
    features: Sequence[Sequence[str]]
    others: Sequence[str]


class _Known(NamedTuple):
    """The features of the trained input that the served inputs have.

    Attributes:
        places: For each trained input, the index of the same input among the served inputs (None if there is no such input), and feature → the
            index of its value in that input.
        fault: Why the input is degraded; None if the served inputs have every feature.
    """

    places: tuple[tuple[int | None, dict[str, int]], ...]
    fault: InputFault | None


class _Identity(NamedTuple):
    """What tells a version from each other one: its number alone does not, because after a deletion the registry gives the same numbers anew."""

    version: str
    run_id: str | None
    digest: str | None


class FollowedModel:
    """Follows an alias of a registered model in a thread: polls the registry, and loads the version that the alias names.

    Args:
        settings: The settings that name the registry.
        declared: The declaration of the model.
        name: The registered name.
        alias: The alias, such as "champion".
        on_change: Called in that thread with each model that begins to answer.

    Attributes:
        current: The model that answers, or None while no model is loaded.
        fault: Why the version with the alias does not answer; empty while it answers.
        looked: Whether the registry has been asked at least once; also true after a failed request.
    """

    def __init__(
        self,
        settings: Settings,
        declared: Model,
        name: str,
        alias: str,
        on_change: Callable[[LoadedModel], None] = lambda model: None,
    ) -> None:
        self.current: LoadedModel | None = None
        self.fault = "the registry has not answered yet"
        self.looked = False
        self._settings, self._declared, self._name, self._alias, self._on_change = settings, declared, name, alias, on_change
        self._stop = threading.Event()
        #: Which version answers, and which was refused until when.
        self._answering: _Identity | None = None
        self._refused: tuple[_Identity | None, float] = (None, 0.0)
        self._thread = threading.Thread(target=self._follow, name=f"{name}@{alias}", daemon=True)

    def start(self) -> None:
        """Starts the thread, which loads the model now and follows the alias."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def _follow(self) -> None:
        # MLflow retries for minutes by default; here the next poll is the retry.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        while True:
            try:
                self.refresh()
            except Exception as error:  # noqa: BLE001  # whatever the registry does, the current model must continue to answer
                self.fault = f"the registry cannot be asked ({type(error).__name__})"
            self.looked = True
            if self._stop.wait(self._settings.alias_poll_seconds):
                return

    def refresh(self) -> None:
        """Asks the registry, and loads the version with the alias if another version answers at present.

        Raises:
            MlflowException: The registry does not answer.
        """
        name = self._name
        registered = version_by_alias(self._settings, name, self._alias)
        if registered is None:
            self.fault = f"the registry has no {self._alias} of {name}"
            return
        version = registered.version
        identity = _Identity(version, registered.run_id, registered.tags.get(DIGEST_TAG))
        if self.current is not None and self._answering == identity:
            self.fault, self._refused = "", (None, 0.0)
            return
        if self._refused[0] == identity and time.monotonic() < self._refused[1]:
            return
        try:
            model = load_model(self._settings, self._declared, name, version, registered.tags)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the new model, the current model must continue to answer
            fault = f"version {version} of {name} cannot be used: {error}"
            if fault != self.fault:
                _log.error("%s; version %s keeps answering", fault, self.current and self.current.version)
            self.fault = fault
            self._refused = (identity, time.monotonic() + _POLLS_UNTIL_RETRY * self._settings.alias_poll_seconds)
            return
        self.current, self._answering = model, identity
        self.fault, self._refused = "", (None, 0.0)
        _log.info("version %s of %s answers", version, name)
        self._on_change(model)


def load_model(settings: Settings, declared: Model, name: str, version: str, tags: Mapping[str, str]) -> LoadedModel:
    """Loads a version of a registered model.

    Args:
        settings: The settings that name the registry.
        declared: The current declaration. A version without the tags below is treated as trained on this declaration.
        name: The registered name.
        version: The registered version.
        tags: The version's tags. The tags of the declaration and of its fingerprint are read.

    Raises:
        ValueError: The version cannot be loaded (`models.registry.load_scorer`), its features have other names than the declared features, its
            objective is another, or its prediction does not fit the objective.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    scorer, vector, fault, unknown_meaning = load_scorer(settings, name, version), declared.vector, "", False
    if (trained_fingerprint(tags) or vector.fingerprint) != vector.fingerprint:
        try:
            vector = vector_of_text(tags.get("declaration", ""), declared.sources)
        except DeclarationError:
            fault, unknown_meaning = "the model was trained on another version of the declaration", True
        types = {column.name: column.type for column in declared.request}
        if other := [column.name for column in vector.request if types.get(column.name) is not column.type]:
            fault = f"the model was trained with other request columns: {', '.join(other)}"
    if asked := other_outcome(tags, declared):
        fault = "; ".join(filter(None, (fault, f"the model was trained to predict {asked}, and not {declared.outcome_meaning}")))
    if scorer.names != vector.names:
        raise ValueError("the model was trained on other features than are declared")
    if scorer.objective is not declared.objective:
        raise ValueError(f"the model is of the objective {scorer.objective}, and {declared.objective} is declared")
    model = LoadedModel(name, version, scorer, vector, fault, unknown_meaning)
    model.predict([vector.empty()])
    return model
