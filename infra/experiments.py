"""Looks up the model that the running experiment of a deployment tests."""

from __future__ import annotations

from features.errors import DeclarationError
from features.model import Model
from features.project import Project
from infra.errors import SettingsError
from infra.policies import Experiment


def experiment_model(experiment: Experiment | None, project: Project) -> Model | None:
    """Returns the model whose variants an experiment compares; None if no experiment runs.

    Raises:
        SettingsError: The project does not declare the model that the experiment names.
    """
    if experiment is None:
        return None
    try:
        return project.model(experiment.model)
    except DeclarationError as error:
        raise SettingsError(f"The experiment {experiment.name} cannot run: {error.cause}", error.cure) from None
