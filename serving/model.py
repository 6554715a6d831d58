"""The model behind an alias of the registry, such as the champion: resolved once, exchanged when the alias moves.

Reads MLflow's registry from a thread of its own; a request only ever sees a whole model. One that cannot be loaded, or that was
trained on features that nobody knows, is refused and the old one stays. A model is given its features by their names: those of another
version of the declaration that mean the same, and the declared default, marked as degraded, for those that do not.
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
#: A model that could not be loaded is tried again after so many polls: its files may have been out of reach for a moment.
_POLLS_UNTIL_RETRY = 10


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        name: The registered name.
        version: The registered version.
        booster: The `lightgbm.Booster`.
        group: The declaration that it was trained on.
        fault: Why its answers may not be exact, whatever is served; empty if they are.
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
        """What the model is given of the features that are served, and why that may not be exact.

        Args:
            served: The version of the group that the values are of.
            values: Its features, in its order.
        """
        indices, fault = self._known.get(served.fingerprint) or self._known.setdefault(served.fingerprint, self._known_of(served))
        found = {name: values[index] for name, index in indices.items()}
        return self.group.model_input(found), self.fault or fault

    def _known_of(self, served: FeatureGroup) -> tuple[dict[str, int], str]:
        known = same_meaning(served, self.group)
        missing = [name for name in self.group.model_names if name not in known]
        fault = f"the model was trained on another version of {', '.join(missing)}" if missing else ""
        return {name: known[name] for name in self.group.model_names if name in known}, fault


class FollowedModel:
    """Follows an alias of a registered model.

    Args:
        settings: Where the registry is.
        group: What the model is asked about.
        name: The registered name.
        alias: Such as "champion".
        on_change: Called with each model that begins to answer, in the thread that follows.

    Attributes:
        current: The model that answers, or None while there is none.
        fault: Why the alias' version is not the one that answers; empty if it is.
        looked: Whether the registry has been asked, with whatever success.
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
        """Looks for the model now and from then on, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def _follow(self) -> None:
        # A registry that is down is asked again at the next poll; MLflow's own patience is minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        while True:
            try:
                self.refresh()
            except Exception as error:  # noqa: BLE001  # whatever the registry does, the old model must go on
                self.fault = f"the registry cannot be asked ({type(error).__name__})"
            self.looked = True
            if self._stop.wait(self._settings.alias_poll_seconds):
                return

    def refresh(self) -> None:
        """Asks the registry, and exchanges the model if the alias has another."""
        name = self._name
        found = version_by_alias(self._settings, name, self._alias)
        if found is None:
            self.fault = f"the registry has no {self._alias} of {name}"
            return
        version = found.version
        if self.current is not None and self.current.version == version:
            self.fault, self._refused = "", ("", 0.0)
            return
        if self._refused[0] == version and time.monotonic() < self._refused[1]:
            return
        try:
            model = load_model(self._settings, self._group, name, version, found.tags)
        except Exception as error:  # noqa: BLE001  # a broken model must not take the working one with it
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
    """A version of a registered model.

    Args:
        settings: Where the registry is.
        declared: The declaration now, which a model without the tag `declaration` is taken to be trained on.
        name: The registered name.
        version: The registered version.
        tags: Of the version: `declaration`, `group_fingerprint`.

    Raises:
        ValueError: It is none that may answer: see `load_booster`, or it was trained on features of other names.
    """
    booster, group, fault = load_booster(settings, name, version), declared, ""
    if tags.get("group_fingerprint", declared.fingerprint) != declared.fingerprint:
        try:
            group = group_of_text(tags.get("declaration", ""), declared.source)
        except DeclarationError:
            fault = "the model was trained on another version of the declaration"
    if tuple(booster.feature_name()) != group.model_names:
        raise ValueError("it was trained on other features than are declared")
    model = LoadedModel(name, version, booster, group, fault)
    if not 0 <= model.predict(group.model_input({})) <= 1:
        raise ValueError("it gives no probabilities")
    return model
