"""Runs the peers as processes. Each peer reads the features of braid's answers as finished values from the same online store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from benchmarks._serving import wait
from benchmarks.peers.environment import peers_python
from infra.settings import Settings

#: The databases of the store with a plain hash per user, and with Feast's values.
_PLAIN_DB, _FEAST_DB = 1, 2
_FOLDER = Path(__file__).parent
_FEAST_SETTINGS = """\
project: peer
provider: local
registry: {folder}/registry.db
offline_store: {{type: dask}}
online_store: {{type: redis, connection_string: "{store},db={db}"}}
entity_key_serialization_version: 3
"""


class Server(NamedTuple):
    """A server that is measured.

    Attributes:
        port: The loopback port on which it listens.
        pid: The id of its process, whose children belong to the server, too.
    """

    port: int
    pid: int


@contextmanager
def peers(settings: Settings, features: pa.Table, booster_file: Path) -> Iterator[tuple[dict[str, Server], redis.Redis]]:
    """Runs the peers during a block. Yields the servers by name, and the client of the plain hashes.

    Args:
        settings: The settings of the deployment whose online store the peers share.
        features: `user_id`, `event_timestamp` and the features, a row per user.
        booster_file: The model of the bare server.
    """
    python, home, url = peers_python(settings), settings.home, settings.redis_url
    plain_url = urlsplit(url)._replace(path=f"/{_PLAIN_DB}").geturl()
    plain = redis.Redis.from_url(plain_url)
    _write_plain(plain, features)
    pq.write_table(features, home / "features.parquet")
    feast = home / "feast"
    feast.mkdir()
    text = _FEAST_SETTINGS.format(folder=feast, store=urlsplit(url).netloc, db=_FEAST_DB)
    (feast / "feature_store.yaml").write_text(text)
    environment = {**os.environ, "FEAST_USAGE": "False", "HOME": str(home)}  # gunicorn writes to the home of the user
    for variable in ("PYTHONPATH", "BENTOML_HOME"):  # these belong to braid's environment
        environment.pop(variable, None)
    model = home / "model.pkl"
    subprocess.run(
        [python, _FOLDER / "prepare.py", home / "features.parquet", model, feast], check=True, env=environment, stdout=sys.stderr
    )
    ports = settings.ports.dagster, settings.ports.mlflow, settings.ports.data_docs  # free, because these services do not run here
    commands = {
        "bare": ([sys.executable, _FOLDER / "bare_server.py", str(ports[0]), plain_url, booster_file], None),
        "fastapi": ([python, _FOLDER / "fastapi_server.py", str(ports[1]), plain_url, model], environment),
        # By default Feast ends its process after 1,000 requests, and writes a line for each.
        "feast": (
            [python.with_name("feast"), "-c", feast, "serve", "-h", "127.0.0.1", "-p", str(ports[2]), "--no-access-log", "--max-requests", "0"],
            environment,
        ),
    }  # fmt: skip
    with ExitStack() as running:
        servers = {}
        for (name, (command, variables)), port in zip(commands.items(), ports, strict=True):
            program = running.enter_context(subprocess.Popen(command, env=variables, stdout=sys.stderr))
            running.callback(program.terminate)
            servers[name] = Server(port, program.pid)
        for server in servers.values():
            wait(server.port)
        yield servers, plain


def _write_plain(client: redis.Redis, features: pa.Table) -> None:
    """Writes a hash per user with each feature by its name."""
    pipeline = client.pipeline(transaction=False)
    for row in features.drop_columns(["event_timestamp"]).to_pylist():
        pipeline.hset(f"user_features:{row.pop('user_id')}", mapping=row)
    pipeline.execute()
