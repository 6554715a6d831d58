"""Settings: read once from the environment, frozen, passed in.

Every embedded part is a variable away from the real one: `KAFKA_BOOTSTRAP`, `REDIS_URL`, `SPARK_MASTER`, `LAKE_URI`,
`MLFLOW_TRACKING_URI`. What is not set is embedded under `home`, on ports of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import SettingsError
from infra.ports import Ports, ports_of


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "braid"


class Settings(BaseSettings):
    """All settings of one deployment. `Settings.load()` makes it.

    Units are in the names. The environment variable of each is its alias.
    """

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore")

    home: Path = Field(Path(".braid"), alias="BRAID_HOME", description="Folder of the deployment's state.")
    cache_dir: Path = Field(default_factory=_cache_dir, alias="BRAID_CACHE", description="Folder of downloaded JARs.")
    lake_uri: str = Field("", alias="LAKE_URI", description="Root of the Delta tables; a path or s3a://…")
    kafka_bootstrap: str = Field("", alias="KAFKA_BOOTSTRAP", description="host:port,…")
    redis_url: str = Field("", alias="REDIS_URL", description="redis://, rediss:// or unix://")
    redis_cluster: bool = Field(False, alias="REDIS_CLUSTER", description="Whether REDIS_URL leads to a Redis Cluster.")
    mlflow_tracking_uri: str = Field("", alias="MLFLOW_TRACKING_URI")
    spark_master: str = Field("local[*]", alias="SPARK_MASTER")
    batch_memory: str = Field("2g", alias="BRAID_BATCH_MEMORY", description="Heap of the batch Spark driver.")
    speed_memory: str = Field("1g", alias="BRAID_SPEED_MEMORY", description="Heap of the speed Spark driver.")
    watermark_seconds: int = Field(600, alias="BRAID_WATERMARK_SECONDS", gt=0, description="How late the speed layer accepts.")
    future_seconds: int = Field(300, alias="BRAID_FUTURE_SECONDS", ge=0, description="How far ahead of its arrival a clock may be.")
    archive_seconds: float = Field(5, alias="BRAID_ARCHIVE_SECONDS", gt=0, description="Trigger of the raw archive.")
    offline_seconds: float = Field(
        300, alias="BRAID_OFFLINE_SECONDS", gt=0, description="Trigger of the speed layer's offline store."
    )
    tile_ttl_seconds: int = Field(3 * 86_400, alias="BRAID_TILE_TTL_SECONDS", gt=0, description="How long a speed tile is kept.")
    store_timeout_seconds: float = Field(
        0.25, alias="BRAID_STORE_TIMEOUT_SECONDS", gt=0, description="Deadline of a read in serving."
    )
    alias_poll_seconds: float = Field(
        3, alias="BRAID_ALIAS_POLL_SECONDS", gt=0, description="How often serving looks for a new champion."
    )
    model_name: str = Field("repurchase", alias="BRAID_MODEL_NAME", description="Registered model that /predict serves.")
    ports: Ports = Field(default_factory=Ports, exclude=True)

    @classmethod
    def load(cls, home: Path | str | None = None) -> Settings:
        """The settings of the environment, with the embedded parts filled in.

        Args:
            home: Overrides BRAID_HOME.

        Raises:
            SettingsError: A variable holds what it cannot.
        """
        try:
            given = cls(home=Path(home)) if home is not None else cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"The setting {name} is not usable: {first['msg']}.", f"Correct or unset {name}.") from None
        folder = given.home.expanduser().absolute()
        ports = ports_of(folder)
        return given.model_copy(
            update={
                "home": folder,
                "cache_dir": given.cache_dir.expanduser().absolute(),
                "ports": ports,
                "lake_uri": (given.lake_uri or str(folder / "lake")).rstrip("/"),
                "kafka_bootstrap": given.kafka_bootstrap or f"127.0.0.1:{ports.kafka}",
                "redis_url": given.redis_url or f"redis://127.0.0.1:{ports.valkey}/0",
                "mlflow_tracking_uri": given.mlflow_tracking_uri or f"http://127.0.0.1:{ports.mlflow}",
            }
        )

    @property
    def embedded(self) -> frozenset[str]:
        """Of kafka, valkey and mlflow those that this deployment runs itself: whose URL leads to the home's own port.

        A child process, which gets every URL by its environment, thus says the same as its parent.
        """
        own = {
            "kafka": self.kafka_bootstrap == f"127.0.0.1:{self.ports.kafka}",
            "valkey": self.redis_url == f"redis://127.0.0.1:{self.ports.valkey}/0",
            "mlflow": self.mlflow_tracking_uri == f"http://127.0.0.1:{self.ports.mlflow}",
        }
        return frozenset(name for name, embedded in own.items() if embedded)

    @property
    def serving_url(self) -> str:
        """Where BentoML answers."""
        return f"http://127.0.0.1:{self.ports.serving}"

    @property
    def dagster_url(self) -> str:
        """Where Dagster's UI answers."""
        return f"http://127.0.0.1:{self.ports.dagster}"

    def table(self, name: str) -> str:
        """The path or URI of a Delta table."""
        return f"{self.lake_uri}/{name}"

    def checkpoint(self, query: str) -> str:
        """The path or URI of a streaming query's checkpoint."""
        return f"{self.lake_uri}/_checkpoints/{query}"

    def environment(self) -> dict[str, str]:
        """The variables that make a child process load these same settings."""
        return {
            field.alias: str(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if field.alias and getattr(self, name) is not None
        }
