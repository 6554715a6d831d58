"""Settings: read once from the environment, frozen, and passed to every process.

A variable replaces each embedded part by an external one: `KAFKA_BOOTSTRAP`, `REDIS_URL`, `SPARK_MASTER`, `LAKE_URI`,
`MLFLOW_TRACKING_URI`. Without the variable the part is embedded: its state is in `home`, and it has a port of this home.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import SettingsError
from infra.policies import Experiment, GroupBounds, UseCase
from infra.ports import Ports, ports_of

#: The project of a deployment that names no project.
DEFAULT_PROJECT = "examples.shop.definitions:project"
#: The file of a home with the architecture that `braid up` chose.
ARCHITECTURE_FILE = "architecture"
#: The file of a home with the engine that `braid up` chose.
ENGINE_FILE = "engine"
#: Longer than any time of a tile's index, which has 48 bits for the milliseconds.
_FOREVER_SECONDS = 10_000 * 365 * 86_400
#: Settings with secrets. A variable with the suffix `_FILE` can name a file with the secret, as container platforms provide it.
_SECRETS = {
    "REDIS_URL": "redis_url", "REDIS_READER_URL": "redis_reader_url", "KAFKA_SASL_PASSWORD": "kafka_sasl_password",
    "BRAID_API_KEY": "api_key", "BRAID_ALERT_URL": "alert_url",
}  # fmt: skip


def _secrets_of_files() -> dict[str, Any]:
    secrets: dict[str, Any] = {}
    for variable, name in _SECRETS.items():
        path = os.environ.get(f"{variable}_FILE")
        if path and not os.environ.get(variable):
            cure = f"Correct or unset {variable}_FILE."
            try:
                secrets[name] = Path(path).read_text().strip()
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is no text"
                raise SettingsError(f"The file of {variable}, {path}, cannot be read: {reason}.", cure) from None
            if not secrets[name]:  # without a key, serving would answer everybody
                raise SettingsError(f"The file of {variable}, {path}, is empty.", cure)
    return secrets


def _written_project() -> dict[str, Any]:
    """Returns `project` and `folder` of the nearest `pyproject.toml` with `[tool.braid]`, upwards from the working directory; empty if none exists.

    Raises:
        SettingsError: The file cannot be read, or its `[tool.braid]` is invalid.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        path = folder / "pyproject.toml"
        try:
            section = tomllib.loads(path.read_text()).get("tool", {}).get("braid") if path.is_file() else None
        except (OSError, ValueError) as error:
            raise SettingsError(f"The file {path} cannot be read: {error}.", "Correct the file.") from None
        if section is not None:
            project = section.get("project") if isinstance(section, dict) else None
            if not isinstance(project, str) or section.keys() - {"project"}:
                raise SettingsError(f"[tool.braid] in {path} is invalid.", 'Write only project = "shop.definitions:project".')
            return {"project": project, "folder": folder}
    return {}


def _remembered(home: Path, file: str, values: Collection[str]) -> str:
    """Returns the value that the last `braid up` of a home stored in `file`; empty if the file does not contain one of the `values`."""
    path = home / file
    text = path.read_text().strip() if path.is_file() else ""
    return text if text in values else ""


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "braid"


class Settings(BaseSettings):
    """All settings of a deployment, made by `Settings.load()`.

    The names contain the units. The alias of a field is its environment variable.
    """

    # Python code sets a field by its name, the environment by its alias. Without the prefix pydantic would also read a variable with the
    # name of a field, such as HOME. The prefix is not added to an alias.
    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore", env_prefix="BRAID_FIELD_")

    project: str = Field(
        "",
        alias="BRAID_PROJECT",
        description="The project, as `module:attribute` or `path/to/definitions.py:attribute`. Default: `project` of the nearest `[tool.braid]`, else `examples.shop.definitions:project`.",
    )
    project_folder: Path = Field(
        Path(),
        alias="BRAID_PROJECT_FOLDER",
        description="The folder of the project's module. Default: the folder of the nearest `[tool.braid]`, else the working directory.",
    )
    home: Path = Field(
        Path(".braid"),
        alias="BRAID_HOME",
        description="The folder of the deployment's state: data of the embedded services, logs, ports, and the lake unless `LAKE_URI` is set. A relative path starts at the folder of `[tool.braid]`.",
    )
    cache_dir: Path = Field(
        default_factory=_cache_dir,
        alias="BRAID_CACHE",
        description="The folder of downloaded JARs, shared by all deployments of a user. Default: `braid` under `XDG_CACHE_HOME`, else `~/.cache/braid`.",
    )
    lake_uri: str = Field("", alias="LAKE_URI", description="The root folder of the Delta tables. Default: `lake` in the home.")
    kafka_bootstrap: str = Field(
        "", alias="KAFKA_BOOTSTRAP", description="Kafka's brokers, as `host:port,host:port`. Default: the embedded Kafka."
    )
    redis_url: str = Field(
        "",
        alias="REDIS_URL",
        description="The online store, as `redis://…`, `rediss://…` or `unix://…`. Default: the embedded Valkey.",
    )
    redis_reader_url: str = Field(
        "", alias="REDIS_READER_URL", description="The same store with a user who can only read, for serving. Default: `REDIS_URL`."
    )
    redis_cluster: bool = Field(False, alias="REDIS_CLUSTER", description="Whether `REDIS_URL` is a node of a Redis Cluster.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", alias="KAFKA_SECURITY_PROTOCOL", description="Kafka's security protocol."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512",
        alias="KAFKA_SASL_MECHANISM",
        description="Kafka's SASL mechanism; used with `SASL_PLAINTEXT` and `SASL_SSL`.",
    )
    kafka_sasl_username: str = Field("", alias="KAFKA_SASL_USERNAME", description="Kafka's SASL user.")
    kafka_sasl_password: SecretStr | None = Field(
        None, alias="KAFKA_SASL_PASSWORD", description="The password of Kafka's SASL user. A secret."
    )
    kafka_ssl_cafile: str | None = Field(
        None, alias="KAFKA_SSL_CAFILE", description="A PEM file of trusted certificates. Default: those of the system."
    )
    mlflow_tracking_uri: str = Field(
        "", alias="MLFLOW_TRACKING_URI", description="The MLflow server, as a URL. Default: the embedded MLflow."
    )
    api_key: SecretStr | None = Field(
        None,
        alias="BRAID_API_KEY",
        description="The key that callers of serving must send. Default: no key is needed. A secret.",
    )
    spark_master: str = Field(
        "local[*]",
        alias="SPARK_MASTER",
        description="Spark's master. `local[N]` uses N cores of this machine, `local[*]` all of them.",
    )
    batch_memory: str = Field(
        "2g",
        alias="BRAID_BATCH_MEMORY",
        description="Heap of the Spark driver of the batch layer, in Spark's form, such as `2g` for 2 GiB.",
    )
    speed_memory: str = Field(
        "1g",
        alias="BRAID_SPEED_MEMORY",
        description="Heap of the Spark driver of the speed layer, in Spark's form, such as `1g` for 1 GiB.",
    )
    warm_jvm_seconds: int = Field(
        600,
        alias="BRAID_WARM_JVM_SECONDS",
        ge=0,
        description="Seconds that the Spark JVM of Dagster's runs is kept for the next run, with its memory, such as 600. 0: each run starts its own.",
    )
    architecture: Literal["lambda", "kappa"] = Field(
        "lambda",
        alias="BRAID_ARCHITECTURE",
        description="`lambda`: a batch makes views of the past, and the stream what came since. `kappa`: the stream alone makes every window, and the archive gives what Kafka no longer holds. Default: that of the last `braid up` of the home, else `lambda`.",
    )
    engine: Literal["spark", "flink"] = Field(
        "spark",
        alias="BRAID_ENGINE",
        description="What makes the tiles of the stream: `spark`, Spark Structured Streaming; `flink`, jobs of Apache Flink, which is installed when it is first used. Default: that of the last `braid up` of the home, else `spark`.",
    )
    watermark_seconds: int = Field(
        600,
        alias="BRAID_WATERMARK_SECONDS",
        gt=0,
        description="Seconds that an event may be behind the newest event of the stream; the speed layer leaves later events to the batch.",
    )
    future_seconds: int = Field(
        300,
        alias="BRAID_FUTURE_SECONDS",
        ge=0,
        description="Seconds that the time of an event may be ahead of its arrival; an event further ahead is refused.",
    )
    deduplication_days: int = Field(
        35,
        alias="BRAID_DEDUPLICATION_DAYS",
        ge=0,
        description="Days that two events of one id may be apart and still count as duplicates in the batch layer.",
    )
    stream_deduplication_seconds: int = Field(
        1_200,
        alias="BRAID_STREAM_DEDUPLICATION_SECONDS",
        gt=0,
        description="Seconds after the arrival of an event within which the speed layer recognizes copies of it, some 40 bytes each in the online store; the batch drops later copies.",
    )
    speed_batch_events: int = Field(
        200_000,
        alias="BRAID_SPEED_BATCH_EVENTS",
        gt=0,
        description="Messages that a micro-batch of the speed layer takes at most: a bound of its memory while it works off a backlog.",
    )
    speed_trigger_seconds: float = Field(
        0,
        alias="BRAID_SPEED_TRIGGER_SECONDS",
        ge=0,
        description="Seconds between the starts of two micro-batches of the hot query, such as 1, for less CPU time where fewer suffice. 0: one begins when the last is over.",
    )
    archive_seconds: float = Field(
        10, alias="BRAID_ARCHIVE_SECONDS", gt=0, description="Seconds between two micro-batches of the raw archive."
    )
    offline_seconds: float = Field(
        300,
        alias="BRAID_OFFLINE_SECONDS",
        gt=0,
        description="Seconds between two writings of the offline store `{group}_realtime`.",
    )
    tile_ttl_seconds: int = Field(
        3 * 86_400,
        alias="BRAID_TILE_TTL_SECONDS",
        gt=0,
        description="Seconds until a speed tile expires in the online store, counted from its last write; at least a day more than the group's buffer.",
    )
    store_timeout_seconds: float = Field(
        0.25,
        alias="BRAID_STORE_TIMEOUT_SECONDS",
        gt=0,
        description="Seconds that serving waits for the online store before it answers with defaults, marked as degraded.",
    )
    alias_poll_seconds: float = Field(
        3, alias="BRAID_ALIAS_POLL_SECONDS", gt=0, description="Seconds between two checks of serving for a new champion."
    )
    serving_workers: int = Field(
        1,
        alias="BRAID_SERVING_WORKERS",
        ge=1,
        description="Processes of serving that answer requests on the same port, such as one for each core. Each takes about 400 MB.",
    )
    requests_at_once: int = Field(
        64,
        alias="BRAID_REQUESTS_AT_ONCE",
        ge=1,
        description="Requests that a process of serving has in work at a time; more get 503 at once. A request waits at most for so many others, so choose about the smallest budget of a model over the time that a prediction takes alone.",
    )
    cors_origins: frozenset[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]] = Field(
        frozenset(),
        alias="BRAID_CORS_ORIGINS",
        description='Origins whose pages may call serving in a browser, as a JSON list such as `["https://shop.example.com"]`; `["*"]` allows all. Default: none.',
    )
    traces_endpoint: str = Field(
        "",
        alias="BRAID_TRACES_ENDPOINT",
        pattern=r"^(https?://\S+)?$",
        description="Where serving sends traces of its requests, by OpenTelemetry's protocol over HTTP, such as `http://collector:4318/v1/traces`. Default: nowhere.",
    )
    traces_share: float = Field(
        1.0,
        alias="BRAID_TRACES_SHARE",
        ge=0,
        le=1,
        description="Share of the requests that are traced, 0 to 1, where the caller's `traceparent` does not decide.",
    )
    keep_alive_seconds: int = Field(
        75,
        alias="BRAID_KEEP_ALIVE_SECONDS",
        gt=0,
        description="Seconds that serving keeps an idle connection open. Choose more than the idle time of the clients' pools and of a load balancer.",
    )
    drain_seconds: float = Field(
        2,
        alias="BRAID_DRAIN_SECONDS",
        ge=0,
        description="Seconds that serving still answers after SIGTERM, while `/readyz` gives 503.",
    )
    batch_every: Literal["day", "hour"] = Field("day", alias="BRAID_BATCH_EVERY", description="The period of the automatic batch.")
    automation: frozenset[Literal["batch", "late", "retraining"]] = Field(
        frozenset(), alias="BRAID_AUTOMATION",
        description="The sensors of Dagster that are switched on from the start, as a JSON list of `batch`, `late` and `retraining`.",
    )  # fmt: skip
    sensor_seconds: int = Field(
        60, alias="BRAID_SENSOR_SECONDS", gt=0, description="Seconds between two evaluations of each sensor of Dagster."
    )
    late_events: int = Field(
        100, alias="BRAID_LATE_EVENTS", gt=0, description="Number of late events that starts a repair of their days by the batch."
    )
    keep_days: int = Field(
        30, alias="BRAID_KEEP_DAYS", gt=0,
        description="Days for which the lake keeps older versions of its tables, and tables and checkpoints of versions of a declaration that are not in use.",
    )  # fmt: skip
    drift: float = Field(
        0.2,
        alias="BRAID_DRIFT",
        gt=0,
        le=1,
        description="Kolmogorov-Smirnov distance between training and now, from 0 to 1, from which a feature counts as drifted.",
    )
    auc_drop: float = Field(
        0.05,
        alias="BRAID_AUC_DROP",
        gt=0,
        le=1,
        description="Drop of the champion's live AUC below its AUC in training, from 0 to 1, that calls for a retraining.",
    )
    error_rise: float = Field(
        0.2,
        alias="BRAID_ERROR_RISE",
        gt=0,
        description="For other objectives than a probability: the share by which the champion's live error may exceed its error in training before a retraining.",
    )
    group_bounds: dict[str, GroupBounds] = Field(
        {},
        alias="BRAID_GROUP_BOUNDS",
        description="Bounds of freshness and coverage, as a JSON object of group name → `GroupBounds`.",
    )
    use_cases: dict[str, UseCase] = Field(
        {}, alias="BRAID_USE_CASES", description="Policies for stale features, as a JSON object of use case name → `UseCase`."
    )
    experiment: Experiment | None = Field(
        None, alias="BRAID_EXPERIMENT", description="The running A/B test, as a JSON object `Experiment`. Default: no experiment."
    )
    served_share: float = Field(
        0,
        alias="BRAID_SERVED_SHARE",
        ge=0,
        le=1,
        description="Share of the entities, from 0 to 1, whose answers are logged. All predictions of an experiment are logged.",
    )
    served_candidates: int = Field(
        10,
        alias="BRAID_SERVED_CANDIDATES",
        ge=0,
        description="The largest number of candidates of one answer of `/models/{name}/score` that are logged, drawn at random.",
    )
    alert_url: SecretStr | None = Field(
        None,
        alias="BRAID_ALERT_URL",
        description="The webhook for alerts. Default: alerts go to the log only. A secret.",
    )
    alert_format: Literal["json", "slack"] = Field(
        "json", alias="BRAID_ALERT_FORMAT", description="The format of the messages to the webhook."
    )
    ports: Ports = Field(default_factory=Ports, exclude=True)

    @field_validator("kafka_sasl_password", "api_key", "alert_url")
    @classmethod
    def _unset_if_empty(cls, secret: SecretStr | None) -> SecretStr | None:
        """An empty variable is one that is not set, as for the other settings."""
        return secret or None

    @classmethod
    def load(cls, home: Path | str | None = None, project: str | None = None) -> Settings:
        """Returns the settings of the environment, with the addresses of the embedded parts filled in.

        Args:
            home: Overrides BRAID_HOME.
            project: Overrides BRAID_PROJECT.

        Raises:
            SettingsError: A variable or `[tool.braid]` is invalid.
        """
        named = {"home": Path(home) if home is not None else None, "project": project}
        try:
            loaded = cls(**{**_secrets_of_files(), **{name: value for name, value in named.items() if value is not None}})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"The setting {name} is invalid: {first['msg']}.", f"Correct or unset {name}.") from None
        written = {} if loaded.project else _written_project()
        # A path on the command line starts at the working directory, as everywhere; that of the project is the same in each of its folders.
        start = written.get("folder", Path()) if home is None else Path()
        folder = (start / loaded.home.expanduser()).absolute()
        ports = ports_of(folder)
        return loaded.model_copy(
            update={
                "project": loaded.project or written.get("project", DEFAULT_PROJECT),
                "project_folder": written.get("folder", loaded.project_folder.expanduser().absolute()),
                "home": folder,
                "cache_dir": loaded.cache_dir.expanduser().absolute(),
                "ports": ports,
                **{
                    name: _remembered(folder, file, values) or getattr(loaded, name)
                    for name, file, values in (
                        ("architecture", ARCHITECTURE_FILE, ("lambda", "kappa")),
                        ("engine", ENGINE_FILE, ("spark", "flink")),
                    )
                    if name not in loaded.model_fields_set
                },
                "lake_uri": (loaded.lake_uri or str(folder / "lake")).rstrip("/"),
                "kafka_bootstrap": loaded.kafka_bootstrap or f"127.0.0.1:{ports.kafka}",
                "redis_url": loaded.redis_url or f"redis://127.0.0.1:{ports.valkey}/0",
                "redis_reader_url": loaded.redis_reader_url or loaded.redis_url or f"redis://127.0.0.1:{ports.valkey}/0",
                "mlflow_tracking_uri": loaded.mlflow_tracking_uri or f"http://127.0.0.1:{ports.mlflow}",
            }
        )

    @property
    def embedded(self) -> frozenset[str]:
        """The services among kafka, valkey and mlflow that this deployment runs itself: those whose address has a port of this home.

        A child process gets every address by its environment, so the result is the same in the child.
        """
        own = {
            "kafka": self.kafka_bootstrap == f"127.0.0.1:{self.ports.kafka}",
            "valkey": self.redis_url == f"redis://127.0.0.1:{self.ports.valkey}/0",
            "mlflow": self.mlflow_tracking_uri == f"http://127.0.0.1:{self.ports.mlflow}",
        }
        return frozenset(name for name, embedded in own.items() if embedded)

    @property
    def serving_url(self) -> str:
        """The address of serving."""
        return f"http://127.0.0.1:{self.ports.serving}"

    @property
    def dagster_url(self) -> str:
        """The address of Dagster's UI."""
        return f"http://127.0.0.1:{self.ports.dagster}"

    @property
    def data_docs(self) -> Path:
        """The folder of the pages that Great Expectations builds."""
        return self.home / "quality"

    @property
    def data_docs_url(self) -> str:
        """The address of the pages in `data_docs`."""
        return f"http://127.0.0.1:{self.ports.data_docs}"

    @property
    def serving_headers(self) -> dict[str, str]:
        """The HTTP headers that a caller of serving must send."""
        return {"authorization": f"Bearer {self.api_key.get_secret_value()}"} if self.api_key else {}

    def table(self, name: str) -> str:
        """Returns the path or URI of a Delta table."""
        return f"{self.lake_uri}/{name}"

    def checkpoint(self, query: str) -> str:
        """Returns the path or URI of a streaming query's checkpoint."""
        return f"{self.lake_uri}/_checkpoints/{query}"

    def environment(self) -> dict[str, str]:
        """Returns the environment variables from which a child process loads the same settings, including secrets."""
        variables = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.alias and value is not None:
                if isinstance(value, frozenset):
                    variables[field.alias] = json.dumps(sorted(value))  # the order of a set differs between processes
                elif isinstance(value, dict | Experiment):
                    variables[field.alias] = TypeAdapter(type(value)).dump_json(value).decode()
                else:
                    variables[field.alias] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return variables

    @property
    def kappa(self) -> bool:
        """Whether the architecture is Kappa, in which the stream alone makes every window."""
        return self.architecture == "kappa"

    def tiles_kept_seconds(self, buffer_ms: int) -> int:
        """Returns the seconds that the online store keeps a speed tile of a group. Answers need the tile until the buffer after batch_end is over.

        In Kappa tiles do not expire: the result is then longer than any time.

        Args:
            buffer_ms: The buffer of the group, in ms.
        """
        if self.kappa:
            return _FOREVER_SECONDS
        return max(self.tile_ttl_seconds, buffer_ms // 1_000 + 86_400)

    def bounds(self, group: str) -> GroupBounds:
        """Returns the bounds of a group; the defaults if `group_bounds` does not name the group."""
        return self.group_bounds.get(group, GroupBounds())
