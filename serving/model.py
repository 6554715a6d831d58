"""The model behind an alias of the registry, such as the champion. When the alias moves, the new version takes over.

A thread polls MLflow's registry, so that a request never waits for it. A version that cannot be loaded, or whose features are not
declared, is refused, and the version before it continues to answer.

A model gets its features by name. If the model was trained on another version of the declaration, each feature that means the same
in both versions is passed on; each other feature is replaced by its declared default, and the answer is marked as degraded.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from features.aggregations import Value
from features.declaration import FeatureGroup
from features.declaration.versions import group_of_text, same_meaning
from features.errors import DeclarationError
from infra.settings import Settings
from models.registry import load_booster, version_by_alias

_log = logging.getLogger("serving")
#: The number of polls after which a refused version is tried again, because its files may have been unreachable for a moment.
_POLLS_UNTIL_RETRY = 10


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        name: The registered name.
        version: The registered version.
        booster: The `lightgbm.Booster`.
        group: The declaration that the model was trained on.
        fault: Why every answer of the model is degraded; empty for a model without such a fault.
    """

    name: str
    version: str
    booster: Any
    group: FeatureGroup
    fault: str = ""
    _known: dict[str, tuple[dict[str, int], str]] = field(default_factory=dict, compare=False, repr=False)

    def predict(self, values: list[float]) -> float:
        """The probability of label 1, given the values of `group.model_names`."""
        return float(self.booster.predict(np.array([values]), num_threads=1)[0])

    def input_of(self, served: FeatureGroup, values: Sequence[Value]) -> tuple[list[float], str]:
        """The input of the model, and the reason why the input is degraded; the reason is empty for an exact input.

        Args:
            served: The version of the group that the values belong to.
            values: One value per feature of `served`.
        """
        indices, fault = self._known.get(served.fingerprint) or self._known.setdefault(served.fingerprint, self._known_of(served))
        features = {name: values[index] for name, index in indices.items()}
        return self.group.model_input(features), self.fault or fault

    def _known_of(self, served: FeatureGroup) -> tuple[dict[str, int], str]:
        known = same_meaning(served, self.group)
        missing = [name for name in self.group.model_names if name not in known]
        fault = f"the model was trained on another version of {', '.join(missing)}" if missing else ""
        return {name: known[name] for name in self.group.model_names if name in known}, fault


class FollowedModel:
    """Follows an alias of a registered model in a thread.

    Args:
        settings: The settings that name the registry.
        group: The declared group whose features the model gets.
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
        group: FeatureGroup,
        name: str,
        alias: str,
        on_change: Callable[[LoadedModel], None] = lambda model: None,
    ) -> None:
        self.current: LoadedModel | None = None
        self.fault = "the registry has not answered yet"
        self.looked = False
        self._settings, self._group, self._name, self._alias, self._on_change = settings, group, name, alias, on_change
        self._stop = threading.Event()
        self._refused: tuple[str, float] = ("", 0.0)
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
        """Asks the registry, and loads the version with the alias if another version answers now."""
        name = self._name
        registered = version_by_alias(self._settings, name, self._alias)
        if registered is None:
            self.fault = f"the registry has no {self._alias} of {name}"
            return
        version = registered.version
        if self.current is not None and self.current.version == version:
            self.fault, self._refused = "", ("", 0.0)
            return
        if self._refused[0] == version and time.monotonic() < self._refused[1]:
            return
        try:
            model = load_model(self._settings, self._group, name, version, registered.tags)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the new model, the current model must continue to answer
            fault = f"version {version} of {name} cannot be used: {error}"
            if fault != self.fault:
                _log.error("%s; version %s keeps answering", fault, self.current and self.current.version)
            self.fault = fault
            self._refused = (version, time.monotonic() + _POLLS_UNTIL_RETRY * self._settings.alias_poll_seconds)
            return
        self.current = model
        self.fault, self._refused = "", ("", 0.0)
        _log.info("version %s of %s answers", version, name)
        self._on_change(model)


def load_model(settings: Settings, declared: FeatureGroup, name: str, version: str, tags: Mapping[str, str]) -> LoadedModel:
    """Loads a version of a registered model.

    Args:
        settings: The settings that name the registry.
        declared: The current declaration of the group. A version without the tags below counts as trained on it.
        name: The registered name.
        version: The registered version.
        tags: The version's tags; `declaration` and `group_fingerprint` are read.

    Raises:
        ValueError: As `load_booster`; or the model's features have other names than the declared features.
    """
    booster, group, fault = load_booster(settings, name, version), declared, ""
    if tags.get("group_fingerprint", declared.fingerprint) != declared.fingerprint:
        try:
            group = group_of_text(tags.get("declaration", ""), declared.source)
        except DeclarationError:
            fault = "the model was trained on another version of the declaration"
    if tuple(booster.feature_name()) != group.model_names:
        raise ValueError("the model was trained on other features than are declared")
    model = LoadedModel(name, version, booster, group, fault)
    if not 0 <= model.predict(group.model_input({})) <= 1:
        raise ValueError("the model gives no probabilities")
    return model
