"""The model registry: versions and aliases in MLflow, and models in LightGBM's text format.

Serving and promotion load a model by the same functions. The text format holds no code, so loading a model runs none.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from infra.settings import Settings

CHAMPION = "champion"
CHALLENGER = "challenger"
#: The tag of a version with the SHA-256 digest of its text. A text whose digest differs from the tag is refused.
DIGEST_TAG = "sha256"
#: The tag of a version that braid has trained: on which rows. `HELD_OUT` are those before the evaluation, `ALL_ROWS` those up to the horizon.
FIT_TAG, HELD_OUT, ALL_ROWS = "fit", "held out", "all rows"
#: The tag of a version on all rows: the version before the evaluation, whose metrics it carries and which the next gate compares.
EVALUATED_TAG = "evaluated_version"
#: LightGBM's objectives whose scores are probabilities.
_PROBABILITY = re.compile(r"^objective=(binary|cross_entropy)\b", re.MULTILINE)


def batch_only_name(name: str) -> str:
    """The registered name of a model's batch-only twin, which is trained on the features that batch alone would have served."""
    return f"{name}_batch_only"


def text_digest(text: str) -> str:
    """The SHA-256 digest of a booster's text, the value of the tag `DIGEST_TAG`."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def tracking(settings: Settings) -> Iterator[None]:
    """A block in which MLflow's own functions use the registry of these settings.

    MLflow also writes the registry's address to the environment, where `Settings.load` of another home would read it. So the
    environment variable gets its old value back at the end of the block.
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
    """The fingerprint of the input that a version was trained on, from its tags. A version without the newer tag has one group as input."""
    return tags.get("fingerprint") or tags.get("group_fingerprint")


class RegisteredVersion(NamedTuple):
    """A version of a registered model."""

    version: str
    run_id: str | None
    tags: dict[str, str]
    aliases: tuple[str, ...] = ()


def registered_versions(settings: Settings, name: str) -> list[RegisteredVersion]:
    """Every version of a registered model, the newest first; empty where no version is registered.

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
    """Moves the alias `champion`, which serving follows, to a version.

    Raises:
        MlflowException: The registry does not answer, or has no such version.
    """
    from mlflow import MlflowClient

    MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(name, CHAMPION, version)


def version_of(settings: Settings, name: str, version: str) -> RegisteredVersion:
    """A version of a registered model.

    Raises:
        MlflowException: The registry does not answer, or has no such version.
    """
    from mlflow import MlflowClient

    entry = MlflowClient(settings.mlflow_tracking_uri).get_model_version(name, version)
    return RegisteredVersion(str(entry.version), entry.run_id, entry.tags)


def version_by_alias(settings: Settings, name: str, alias: str) -> RegisteredVersion | None:
    """The version that has an alias, or None where no version has the alias.

    Raises:
        MlflowException: The registry does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        entry = MlflowClient(settings.mlflow_tracking_uri).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # The first code means that the model is not registered, the second that no version has the alias.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    # `version` is a number from a local database, a text from an MLflow server.
    return RegisteredVersion(str(entry.version), entry.run_id, entry.tags)


def registered_text(settings: Settings, name: str, version: str) -> str:
    """The text of a registered version.

    Raises:
        ValueError: The version is not in LightGBM's text format (it is a pickle, for example), or its text was changed after the
            registration.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import Model

    digest = MlflowClient(settings.mlflow_tracking_uri).get_model_version(name, version).tags.get(DIGEST_TAG)
    with tempfile.TemporaryDirectory(prefix="braid-model-") as folder, tracking(settings):
        artifacts = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=folder)
        flavor = Model.load(artifacts).flavors.get("lightgbm", {})
        if flavor.get("model_class") != "lightgbm.basic.Booster":
            raise ValueError("the model is no LightGBM booster in text form")
        data = Path(artifacts, flavor["data"]).read_bytes()
    # A version that another program has registered has no digest until braid promotes it.
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("its text is not the one that was registered: the digests differ")
    return data.decode()


def load_booster(settings: Settings, name: str, version: str) -> Any:
    """A registered version as `lightgbm.Booster`, from its text.

    Raises:
        ValueError: As `registered_text` and `booster_of`.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    return booster_of(registered_text(settings, name, version))


def booster_of(text: str) -> Any:
    """The `lightgbm.Booster` of a text in LightGBM's format.

    Raises:
        ValueError: LightGBM cannot read the text, the text is incomplete, or the scores of the model are not probabilities.
    """
    import lightgbm

    # LightGBM loads an incomplete text without an error, with the trees that are there.
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        raise ValueError("the text of the model is not whole")
    if not _PROBABILITY.search(text):
        raise ValueError("the model gives no probabilities")
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"LightGBM cannot read the model: {error}") from None
