"""The model registry: MLflow's aliases and LightGBM's text. Serving and promotion load a model the same way, and nothing in it is run."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from infra.settings import Settings

CHAMPION = "champion"
CHALLENGER = "challenger"
#: The tag of a version with the digest of its text: what was registered is what is loaded, or nothing is.
DIGEST_TAG = "sha256"
#: LightGBM's objectives whose scores are probabilities.
_PROBABILITY = re.compile(r"^objective=(binary|cross_entropy)\b", re.MULTILINE)


def batch_only_name(name: str) -> str:
    """The registered name of a model's twin that sees what batch alone would have served."""
    return f"{name}_batch_only"


def text_digest(text: str) -> str:
    """The digest of a booster's text, as `DIGEST_TAG` has it."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def tracking(settings: Settings) -> Iterator[None]:
    """MLflow's own functions on this registry.

    MLflow puts the address into the environment as well, where the next `Settings.load` of another home would find it; afterwards
    the environment is as before.
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


class RegisteredVersion(NamedTuple):
    """A version of a registered model."""

    version: str
    run_id: str | None
    tags: dict[str, str]
    aliases: tuple[str, ...] = ()


def registered_versions(settings: Settings, name: str) -> list[RegisteredVersion]:
    """Every version of a registered model, the newest first; empty where nobody has registered one.

    Raises:
        MlflowException: The registry does not answer.
    """
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    aliases: dict[str, list[str]] = {}
    for model in client.search_registered_models(f"name = '{name}'"):
        for alias, version in model.aliases.items():
            aliases.setdefault(str(version), []).append(alias)
    found = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda one: -int(one.version))
    return [
        RegisteredVersion(str(one.version), one.run_id, one.tags, tuple(sorted(aliases.get(str(one.version), [])))) for one in found
    ]


def make_champion(settings: Settings, name: str, version: str) -> None:
    """Moves the alias that serving follows.

    Raises:
        MlflowException: The registry does not answer, or has no such version.
    """
    from mlflow import MlflowClient

    MlflowClient(settings.mlflow_tracking_uri).set_registered_model_alias(name, CHAMPION, version)


def version_by_alias(settings: Settings, name: str, alias: str) -> RegisteredVersion | None:
    """The version that has an alias, or None where there is none.

    Raises:
        MlflowException: The registry does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        found = MlflowClient(settings.mlflow_tracking_uri).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # The first for a model that nobody has registered, the second for an alias that nobody has set.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    # A registry in a database of its own gives a number here, a server a text.
    return RegisteredVersion(str(found.version), found.run_id, found.tags)


def registered_text(settings: Settings, name: str, version: str) -> str:
    """The text of a registered version.

    Raises:
        ValueError: It is no booster in LightGBM's text form (a pickle, say), or not the text that was registered.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import Model

    digest = MlflowClient(settings.mlflow_tracking_uri).get_model_version(name, version).tags.get(DIGEST_TAG)
    with tempfile.TemporaryDirectory(prefix="braid-model-") as folder, tracking(settings):
        found = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=folder)
        flavor = Model.load(found).flavors.get("lightgbm", {})
        if flavor.get("model_class") != "lightgbm.basic.Booster":
            raise ValueError("it is no LightGBM booster in text form")
        data = Path(found, flavor["data"]).read_bytes()
    # A version that somebody else has registered has no digest until it is promoted by braid.
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("its text is not the one that was registered: the digests differ")
    return data.decode()


def load_booster(settings: Settings, name: str, version: str) -> Any:
    """A registered version as `lightgbm.Booster`, from its text.

    Raises:
        ValueError: As `registered_text`, or it is cut off, or gives no probabilities.
        MlflowException: The registry or its artifacts cannot be reached.
    """
    return booster_of(registered_text(settings, name, version))


def booster_of(text: str) -> Any:
    """The `lightgbm.Booster` of a text.

    Raises:
        ValueError: It is none, is cut off, or gives no probabilities.
    """
    import lightgbm

    # LightGBM itself reads the trees that are there and says nothing of those that are not.
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        raise ValueError("its text is not whole")
    if not _PROBABILITY.search(text):
        raise ValueError("it gives no probabilities")
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"LightGBM cannot read it: {error}") from None
