"""The jobs of the Flink cluster: lists and cancels them through the JobManager's REST interface, and starts them by Flink's SQL client."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import httpx
import psutil

from infra.errors import ServiceError
from infra.flink.cluster import rest_url, sql_client_command, sql_client_environment
from infra.settings import Settings

#: The states of a job that has ended or is about to end.
_ENDED = {"FINISHED", "FAILED", "CANCELED", "SUSPENDED"}
_TIMEOUT_SECONDS = 5.0
#: On a busy machine the SQL client takes some minutes to plan a job.
_SUBMIT_SECONDS = 300


class Cluster:
    """The Flink cluster of a deployment.

    Args:
        settings: The settings with the address of the JobManager.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # These files belong to processes that were killed while they started a job.
        for path in (settings.home / "flink").glob("*.sql"):
            pid = path.name.split("-")[0]
            if not (pid.isdigit() and psutil.pid_exists(int(pid))):
                path.unlink(missing_ok=True)
        self._client = httpx.Client(base_url=rest_url(settings), timeout=_TIMEOUT_SECONDS, trust_env=False)

    def jobs(self) -> dict[str, list[str]] | None:
        """Returns the jobs that have not ended: name → ids. None if the JobManager does not answer or has no TaskManager."""
        try:
            if not self._client.get("/overview").raise_for_status().json()["taskmanagers"]:
                return None
            jobs = self._client.get("/jobs/overview").raise_for_status().json()["jobs"]
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        ids: dict[str, list[str]] = {}
        for job in jobs:
            if job["state"] not in _ENDED:
                ids.setdefault(job["name"], []).append(job["jid"])
        return ids

    def cancel(self, job_id: str) -> None:
        """Cancels a job. A job that has ended stays as it is, and an error of the JobManager is ignored."""
        try:
            self._client.patch(f"/jobs/{job_id}", params={"mode": "cancel"})
        except httpx.HTTPError:
            return

    def submit(self, statements: str) -> str:
        """Starts a job. Returns its id.

        Args:
            statements: The statements of the job, in Flink SQL.

        Raises:
            ServiceError: The SQL client does not start the job.
        """
        folder = self._settings.home / "flink"
        # The statements may contain the password of Kafka's user. So only the owner can read the file, and it is deleted afterwards.
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=f"{os.getpid()}-", suffix=".sql", delete=False) as file:
            file.write(statements)
        path = Path(file.name)
        try:
            done = subprocess.run(
                sql_client_command(self._settings, path), env={**os.environ, **sql_client_environment(self._settings)},
                capture_output=True, text=True, timeout=_SUBMIT_SECONDS, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            output = done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            output = f"it has not answered for {_SUBMIT_SECONDS} s"
        finally:
            path.unlink(missing_ok=True)
        if match := re.search(r"Job ID: ([0-9a-f]{32})", output):
            return match[1]
        causes = [line for line in output.splitlines() if "Exception" in line and not line.lstrip().startswith("at ")]
        raise ServiceError(
            f"Flink did not take the job: {(causes or output.strip().splitlines() or ['no reason'])[-1].strip()[:500]}.",
            "See the logs of flink-jobmanager and flink-taskmanager.",
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()
