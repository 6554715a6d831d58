"""The model that answers: the registry's champion, resolved once, exchanged when the alias moves.

Reads MLflow's registry from a thread of its own; a request only ever sees a whole model. One that cannot be loaded, or that was
trained on other features, is refused and the old one stays.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.declaration import FeatureGroup
from infra.registry import CHAMPION, load_booster, version_by_alias
from infra.settings import Settings

_log = logging.getLogger("serving")
#: A model that could not be loaded is tried again after so many polls: its files may have been out of reach for a moment.
_POLLS_UNTIL_RETRY = 10


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory. `predict` takes the group's `model_input`.

    Attributes:
        name: The registered name.
        version: The registered version.
        booster: The `lightgbm.Booster`.
        fault: Why its answers may not be exact; empty if they are.
    """

    name: str
    version: str
    booster: Any
    fault: str = ""

    def predict(self, values: list[float]) -> float:
        """The probability of label 1."""
        return float(self.booster.predict(np.array([values]), num_threads=1)[0])


class Champion:
    """Follows the alias `champion` of the registered model.

    Args:
        settings: Where the registry is.
        group: What the model is asked about.
        on_change: Called with each model that begins to answer, in the thread that follows.

    Attributes:
        current: The model that answers, or None while there is none.
        fault: Why the alias' version is not the one that answers; empty if it is.
        looked: Whether the registry has been asked, with whatever success.
    """

    def __init__(
        self, settings: Settings, group: FeatureGroup, on_change: Callable[[LoadedModel], None] = lambda model: None
    ) -> None:
        self.current: LoadedModel | None = None
        self.fault = "the registry has not answered yet"
        self.looked = False
        self._settings, self._group, self._on_change = settings, group, on_change
        self._stop = threading.Event()
        self._refused: tuple[str, float] = ("", 0.0)
        self._thread = threading.Thread(target=self._follow, name="champion", daemon=True)

    def start(self) -> None:
        """Looks for the champion now and from then on, in the background."""
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
        """Asks the registry, and exchanges the model if its champion is another."""
        name = self._settings.model_name
        found = version_by_alias(self._settings, name, CHAMPION)
        if found is None:
            self.fault = f"the registry has no {CHAMPION} of {name}"
            return
        version = found.version
        if self.current is not None and self.current.version == version:
            self.fault, self._refused = "", ("", 0.0)
            return
        if self._refused[0] == version and time.monotonic() < self._refused[1]:
            return
        try:
            model = load_model(self._settings, self._group, version, found.tags.get("group_fingerprint"))
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


def load_model(settings: Settings, group: FeatureGroup, version: str, fingerprint: str | None) -> LoadedModel:
    """A version of the registered model.

    Args:
        settings: Where the registry is.
        group: What the model is asked about.
        version: The registered version.
        fingerprint: The version of the declaration that it was trained on, if that is known.

    Raises:
        ValueError: It is none that may answer: see `load_booster`, or it was trained on features of other names.
    """
    booster = load_booster(settings, settings.model_name, version)
    if tuple(booster.feature_name()) != group.feature_names:
        raise ValueError("it was trained on other features than are declared")
    changed = fingerprint is not None and fingerprint != group.fingerprint
    fault = "the model was trained on another version of the declaration" if changed else ""
    model = LoadedModel(settings.model_name, version, booster, fault)
    if not 0 <= model.predict(group.model_input({})) <= 1:
        raise ValueError("it gives no probabilities")
    return model
