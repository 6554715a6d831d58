"""The model registry: reads versions, aliases and stored models from MLflow, and moves the alias `champion`.

Serving and promotion load a model by the same functions; `models.formats` defines the stored formats.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from features.model import Model
from infra.settings import Settings
from models.formats import LIGHTGBM, ONNX, Scorer, StoredModel, scorer_of

CHAMPION = "champion"
CHALLENGER = "challenger"
#: The tag with the digest of a version (`models.formats.StoredModel`). A model whose digest differs from the tag is refused.
DIGEST_TAG = "sha256"
#: The tag with the rows on which braid has trained a version: `HELD_OUT` is the training rows before the evaluation rows, `ALL_ROWS` the whole
#: training set. A version that braid has not trained has no such tag.
FIT_TAG, HELD_OUT, ALL_ROWS = "fit", "held out", "all rows"
#: The tag of a version that was fitted on all rows: the number of the `HELD_OUT` version whose metrics it has, and which the next gate compares.
EVALUATED_TAG = "evaluated_version"
#: The tag with the objective of a version. A version without this tag predicts a probability.
OBJECTIVE_TAG = "objective"
#: The tag with the time of the latest row that a version was trained on, in ms since 1970. A version without it may have been trained on any row.
LEARNT_TAG = "learnt_until_ms"
#: The tag with the outcome that a version was trained to predict (`features.model.Model.outcome_meaning`).
OUTCOME_TAG = "outcome"
#: The tag of a champion with the version of its batch-only twin.
TWIN_TAG = "twin_version"
#: The tag with the name of a version's training table. The tag `training_set_version` has the Delta version of the table.
TABLE_TAG = "training_table"
#: The key of `StoredModel.facts` in the metadata of the MLflow model.
FACTS = "braid"
#: The class of a LightGBM model that is stored as text.
_TEXT_CLASS = "lightgbm.basic.Booster"


def batch_only_name(name: str) -> str:
    """Returns the registered name of a model's batch-only twin, which is trained on the features that batch alone would have served."""
    return f"{name}_batch_only"


@contextmanager
def tracking(settings: Settings) -> Iterator[None]:
    """Makes MLflow's module-level functions use the registry of these settings, within a `with` block.

    MLflow also writes the registry's address to the environment, where `Settings.load` of another home would read the address. So the end of the
    block restores the old value of the environment variable.
    """
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(settings.mlflow_tracking_uri)
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def trained_fingerprint(tags: Mapping[str, str]) -> str | None:
    """Returns the fingerprint of the declared input that a version was trained on, from its tags; None if the tags have no fingerprint.

    Older versions have one group as input, and only the tag `group_fingerprint`.
    """
    return tags.get("fingerprint") or tags.get("group_fingerprint")


def other_outcome(tags: Mapping[str, str], model: Model) -> str:
    """Returns the outcome that a version was trained to predict, if the model declares another; else, or if it is not known, an empty text."""
    asked = tags.get(OUTCOME_TAG, "")
    return asked if asked != model.outcome_meaning else ""


class RegisteredVersion(NamedTuple):
    """A version of a registered model.

    Attributes:
        version: The number of the version, as text.
        run_id: The MLflow run that has registered the version, if known.
        tags: The tags of the version.
        aliases: The aliases of the version; only `registered_versions` reads them.
    """

    version: str
    run_id: str | None
    tags: dict[str, str]
    aliases: tuple[str, ...] = ()


def registered_versions(settings: Settings, name: str) -> list[RegisteredVersion]:
    """Returns every version of a registered model, the newest first; empty if no version is registered.

    Raises:
        MlflowException: The registry does not answer.
    """
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    aliases: dict[str, list[str]] = {}
    for model in client.search_registered_models(f"name = '{name}'"):
        for alias, version in model.aliases.items():
            aliases.setdefault(str(version), []).append(alias)
    versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda entry: -int(entry.version))
    return [
        RegisteredVersion(str(entry.version), entry.run_id, entry.tags, tuple(sorted(aliases.get(str(entry.version), []))))
        for entry in versions
    ]


def make_champion(settings: Settings, name: str, version: str) -> None:
    """Moves the alias `champion`, which serving follows, to a version, and that of the twin to the version's twin, if it has one.

    Raises:
        MlflowException: The registry does not answer, or has no such version.
    """
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    client.set_registered_model_alias(name, CHAMPION, version)
    crown_twin(settings, name, client.get_model_version(name, version).tags)


def crown_twin(settings: Settings, name: str, tags: Mapping[str, str]) -> None:
    """Makes the twin that the tags of a champion name the champion of the twins, if they name one. An experiment compares a champion with its own twin."""
    from mlflow import MlflowClient

    if TWIN_TAG in tags:
        MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(batch_only_name(name), CHAMPION, tags[TWIN_TAG])


def version_of(settings: Settings, name: str, version: str) -> RegisteredVersion:
    """Returns a version of a registered model by its number.

    Raises:
        MlflowException: The registry does not answer, or has no such version.
    """
    from mlflow import MlflowClient

    entry = MlflowClient(settings.mlflow_tracking_uri).get_model_version(name, version)
    return RegisteredVersion(str(entry.version), entry.run_id, entry.tags)


def version_by_alias(settings: Settings, name: str, alias: str) -> RegisteredVersion | None:
    """Returns the version that has an alias, or None if no version has the alias.

    Raises:
        MlflowException: The registry does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        entry = MlflowClient(settings.mlflow_tracking_uri).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # The first code means that the model is not registered; the second means that no version has the alias.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    # A local database returns `version` as a number, and an MLflow server returns it as text.
    return RegisteredVersion(str(entry.version), entry.run_id, entry.tags)


def read_version(settings: Settings, name: str, version: str) -> StoredModel:
    """Downloads the stored model of a registered version, and verifies its digest.

    Raises:
        ValueError: The version is neither LightGBM's text nor ONNX (it is a pickle, for example), or it was changed after the registration.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import Model as StoredVersion

    digest = MlflowClient(settings.mlflow_tracking_uri).get_model_version(name, version).tags.get(DIGEST_TAG)
    with tempfile.TemporaryDirectory(prefix="braid-model-") as folder, tracking(settings):
        artifacts = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=folder)
        described = StoredVersion.load(artifacts)
        file_format = next((known for known in (LIGHTGBM, ONNX) if known in described.flavors), None)
        flavor = described.flavors.get(file_format, {})
        if file_format is None or (file_format == LIGHTGBM and flavor.get("model_class") != _TEXT_CLASS):
            raise ValueError("the model is neither a LightGBM booster in text form nor ONNX")
        data = Path(artifacts, flavor["data"]).read_bytes()
    stored = StoredModel(file_format, data, (described.metadata or {}).get(FACTS, {}))
    # A version that another program has registered has no digest until braid promotes the version.
    if digest is not None and stored.digest != digest:
        raise ValueError("it is not the one that was registered: the digests differ")
    return stored


def load_scorer(settings: Settings, name: str, version: str) -> Scorer:
    """Loads a registered version into memory.

    Raises:
        ValueError: The version cannot be used, for a reason of `read_version` or `models.formats.scorer_of`.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    return scorer_of(read_version(settings, name, version))
