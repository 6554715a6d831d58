"""The model that answers: the registry's champion, resolved once, exchanged when the alias moves.

Reads MLflow's registry from a thread of its own; a request only ever sees a whole model. One that cannot be loaded, or that was
trained on other features, is refused and the old one stays.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.declaration import FeatureGroup
from infra.settings import Settings

_log = logging.getLogger("serving")
CHAMPION = "champion"


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory. `predict` takes the group's `model_input`."""

    name: str
    version: str
    booster: Any

    def predict(self, values: list[float]) -> float:
        """The probability of label 1."""
        return float(self.booster.predict(np.array([values]), num_threads=1)[0])


class Champion:
    """Follows the alias `champion` of the registered model.

    Attributes:
        current: The model that answers, or None while there is none.
        fault: Why the alias' version is not the one that answers; empty if it is.
    """

    def __init__(self, settings: Settings, group: FeatureGroup) -> None:
        self.current: LoadedModel | None = None
        self.fault = ""
        self._settings, self._group = settings, group
        self._stop = threading.Event()
        self._refused: str | None = None
        self._thread = threading.Thread(target=self._follow, name="champion", daemon=True)

    def start(self) -> None:
        """Looks for the champion now and from then on, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def _follow(self) -> None:
        while True:
            try:
                self.refresh()
            except Exception as error:  # noqa: BLE001  # whatever the registry or a model's file does, the old model must go on
                self.fault = f"the registry cannot be asked: {type(error).__name__}"
            if self._stop.wait(self._settings.alias_poll_seconds):
                return

    def refresh(self) -> None:
        """Asks the registry, and exchanges the model if its champion is another."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client, name = MlflowClient(self._settings.mlflow_tracking_uri), self._settings.model_name
        try:
            version = str(client.get_model_version_by_alias(name, CHAMPION).version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            self.fault = f"the registry has no {CHAMPION} of {name}"
            return
        if self.current is not None and self.current.version == version:
            self.fault, self._refused = "", None
            return
        if version == self._refused:
            return
        try:
            self.current = load_model(self._settings, self._group, version)
        except Exception as error:  # noqa: BLE001  # a broken model must not take the working one with it
            self._refused, self.fault = version, f"version {version} of {name} cannot be used: {error}"
            _log.error("%s; version %s keeps answering", self.fault, self.current and self.current.version)
            return
        self.fault, self._refused = "", None
        _log.info("version %s of %s answers", version, name)


def load_model(settings: Settings, group: FeatureGroup, version: str) -> LoadedModel:
    """A version of the registered model, from LightGBM's text format: nothing in it is run.

    Raises:
        ValueError: It was trained on other features than the group's, or holds no such text.
    """
    import lightgbm
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(settings.mlflow_tracking_uri)
    folder = mlflow.artifacts.download_artifacts(f"models:/{settings.model_name}/{version}")
    flavor = Model.load(folder).flavors.get("lightgbm", {})
    if flavor.get("model_class") != "lightgbm.basic.Booster":
        raise ValueError("it is no LightGBM booster in text form")
    booster = lightgbm.Booster(model_file=f"{folder}/{flavor['data']}")
    if tuple(booster.feature_name()) != group.feature_names:
        raise ValueError("it was trained on other features than are declared")
    return LoadedModel(settings.model_name, version, booster)
