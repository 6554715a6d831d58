"""The programs of the embedded stack: the command of each program, and the services that must run before it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.embedded.broker import kafka_command, prepare_kafka
from infra.embedded.valkey import prepare_valkey, valkey_command
from infra.flink.cluster import jobmanager_command, prepare_flink, taskmanager_command
from infra.settings import Settings

#: The niceness of the speed layer, and of programs for which a delay of seconds does not matter. Serving has niceness 0, because an answer must come
#: within milliseconds. On busy cores Linux runs the speed layer 2.4 times as long as a background program (the weights 36 and 15).
_SPEED, _BACKGROUND = 15, 19
#: Every service of a deployment, in the order in which `braid status` shows them.
NAMES = ("kafka", "valkey", "mlflow", "speed", "serving", "dagster-code", "dagster", "dagster-daemon", "data-docs")
#: The services of the engine flink, which the speed layer needs.
FLINK_NAMES = ("flink-jobmanager", "flink-taskmanager")


@dataclass(frozen=True)
class Program:
    """One supervised process.

    Attributes:
        name: The name in `braid status`.
        command: Returns the command line. It is called when supervisord starts, because it may search for Java.
        ports: The loopback ports on which the program listens.
        after: The services that must be healthy before the program starts.
        prepare: Writes the files that the program needs in the home, before it starts.
        stop_seconds: The time to end before the program is killed, in seconds.
        nice: The niceness, from 0 to 19. On busy cores a program with a higher niceness gets less CPU time. Answers come first, then the stream, then
            the rest.
        helper: Whether the program is a helper: supervisord starts it by itself, no service waits for it, and `braid status` does not show it.
    """

    name: str
    command: Callable[[Settings], list[str]]
    ports: tuple[int, ...] = ()
    after: tuple[str, ...] = ()
    prepare: Callable[[Settings], None] | None = None
    stop_seconds: int = 15
    nice: int = 0
    helper: bool = False


def service_names(settings: Settings) -> tuple[str, ...]:
    """Returns every service of a deployment with its engine, in the order in which `braid status` shows them."""
    before = NAMES.index("speed")
    return (*NAMES[:before], *FLINK_NAMES, *NAMES[before:]) if settings.engine == "flink" else NAMES


def programs(settings: Settings) -> list[Program]:
    """Returns the programs that this deployment runs itself, without external services."""
    ports = settings.ports
    stores = []
    if "kafka" in settings.embedded:
        stores.append(
            Program("kafka", kafka_command, (ports.kafka, ports.kafka_controller), prepare=prepare_kafka, stop_seconds=30)
        )
    if "valkey" in settings.embedded:
        stores.append(Program("valkey", valkey_command, (ports.valkey,), prepare=prepare_valkey))
    if "mlflow" in settings.embedded:
        stores.append(Program("mlflow", _mlflow_command, (ports.mlflow,), prepare=_prepare_mlflow, nice=_BACKGROUND))
    if settings.engine == "flink":
        rest = (ports.flink_rest, ports.flink_rpc)
        stores += [
            Program("flink-jobmanager", jobmanager_command, rest, prepare=prepare_flink, nice=_SPEED),
            Program("flink-taskmanager", taskmanager_command, after=("flink-jobmanager",), prepare=prepare_flink, nice=_SPEED),
        ]
    return [
        *stores,
        Program("speed", _speed_command, after=("kafka", "valkey", "flink-taskmanager"), stop_seconds=45, nice=_SPEED),
        Program("serving", _serving_command, (ports.serving,), after=("valkey", "mlflow")),
        Program(
            "dagster-code",
            _code_command,
            (ports.dagster_code,),
            after=("kafka", "valkey"),
            prepare=prepare_dagster,
            nice=_BACKGROUND,
        ),
        Program("dagster", _dagster_command, (ports.dagster,), after=("dagster-code",), prepare=prepare_dagster, nice=_BACKGROUND),
        Program("dagster-daemon", _daemon_command, after=("dagster",), prepare=prepare_dagster, nice=_BACKGROUND),
        Program("data-docs", _data_docs_command, (ports.data_docs,), prepare=_prepare_data_docs, nice=_BACKGROUND),
        *([Program("warm-jvm", _warm_jvm_command, nice=_BACKGROUND, helper=True)] if settings.warm_jvm_seconds else []),
    ]


def child_environment(settings: Settings) -> dict[str, str]:
    """Returns the environment variables of the services besides those of the parent: the settings, the homes of the tools, and no telemetry."""
    return {
        **settings.environment(),
        "DAGSTER_HOME": str(settings.home / "dagster"),
        "DAGSTER_CODE_HOST": "127.0.0.1",
        "DAGSTER_CODE_PORT": str(settings.ports.dagster_code),
        "BENTOML_HOME": str(settings.home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # MLflow's job runner is for generative models only, and takes two more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GX_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONUNBUFFERED": "1",
        # `python -m` would look for modules in the working directory first.
        "PYTHONSAFEPATH": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


def prepare_dagster(settings: Settings) -> None:
    """Creates Dagster's home with the files of the instance and the workspace. Each file is replaced as a whole, because other processes read it."""
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dagster.yaml", "workspace.yaml"):
        draft = folder / f"{name}.{os.getpid()}"
        shutil.copyfile(Path(__file__).parents[1] / name, draft)
        draft.replace(folder / name)


def _mlflow_command(settings: Settings) -> list[str]:
    folder = settings.home / "mlflow"
    return [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(settings.ports.mlflow), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip


def _prepare_mlflow(settings: Settings) -> None:
    (settings.home / "mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)


def _speed_command(_settings: Settings) -> list[str]:
    return [sys.executable, "-m", "speed"]


def _serving_command(settings: Settings) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(settings.ports.serving)]
    keep_alive = ["--timeout-keep-alive", str(settings.keep_alive_seconds)]
    return [sys.executable, "-m", "bentoml", "serve", "serving.service:Braid", *where, *keep_alive]


def _code_command(settings: Settings) -> list[str]:
    where = ["-h", "127.0.0.1", "-p", str(settings.ports.dagster_code)]
    return [sys.executable, "-m", "dagster", "code-server", "start", "-m", "orchestration.location", *where]


def _dagster_command(settings: Settings) -> list[str]:
    where = ["-h", "127.0.0.1", "-p", str(settings.ports.dagster)]
    return [sys.executable, "-m", "dagster_webserver", "-w", str(settings.home / "dagster" / "workspace.yaml"), *where]


def _daemon_command(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "dagster._daemon", "run", "-w", str(settings.home / "dagster" / "workspace.yaml")]


def _data_docs_command(settings: Settings) -> list[str]:
    where = ["--bind", "127.0.0.1", "--directory", str(settings.data_docs)]
    return [sys.executable, "-m", "http.server", *where, str(settings.ports.data_docs)]


def _warm_jvm_command(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "infra.embedded.warm_jvm", str(settings.home), str(settings.warm_jvm_seconds)]


def _prepare_data_docs(settings: Settings) -> None:
    settings.data_docs.mkdir(parents=True, exist_ok=True)
