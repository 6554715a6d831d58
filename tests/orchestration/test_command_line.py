"""The command line: what is wrong is told in one sentence of cause and one of cure, never as a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from mlflow import MlflowClient
from typer.main import get_command
from typer.testing import CliRunner

from features.instants import rfc3339
from infra.errors import InputError
from orchestration.cli import app
from orchestration.cli.console import instant_ms
from orchestration.proof import Difference, ProofReport

BRAID = [sys.executable, "-m", "orchestration.cli"]


def braid(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BRAID, *arguments, "--home", str(home)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["load", "missing.csv"], "does not exist"),
        (["load", __file__, "--map", "user_id"], "cannot be read"),
        (["load", __file__], "is unknown"),
        (["replay", "missing.csv"], "does not exist"),
        (["features", "1"], "does not answer"),
        (["features", "one"], "is not an integer"),
        (["features", "1", "--group", "nope"], "is not declared"),
        (["features", "1", "--at", "yesterday"], "cannot be read"),
        (["predict", "1", "--context", "{"], "is not JSON"),
        (["predict", "1"], "does not answer"),
        (["backfill", "--to", "tomorrow"], "cannot be read"),
        (["backfill", "--to", "0026-11-01"], "refuses every event before 1970-01-02"),
        (["backfill", "--to", "1970-01-01T00:00:00Z", "--model", "repurchase"], "refuses every event before 1970-01-02"),
        (["backfill", "--model", "nope"], "is not declared"),
        (["backfill", "--model", "repurchase", "--no-train"], "one act"),
        (["bench", "nope"], "no benchmark"),
        (["models"], "mlflow of"),
        (["promote", "1"], "mlflow of"),
    ],
)
def test_an_error_is_a_sentence(tmp_path: Path, arguments: list[str], says: str) -> None:
    with mock.patch.dict(os.environ):
        done = CliRunner().invoke(app, [*arguments, "--home", str(tmp_path), "--json"])
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert says in json.loads(done.stdout)["error"]
    assert json.loads(done.stdout)["cure"]
    assert not (tmp_path / "first_day.json").exists(), "Dagster's partitions would begin at a mistake"


def test_a_backfill_of_a_source_that_nothing_reads_says_so(tmp_path: Path) -> None:
    definitions = tmp_path / "definitions.py"
    definitions.write_text(
        "from dataclasses import replace\nfrom braid import Project\nfrom tests.declarations import user_events, user_features\n"
        "other = replace(user_events, name='other', topic='other', table='other')\n"
        "project = Project(sources=(user_events, other), groups=(user_features,))\n"
    )
    arguments = [
        "--project",
        f"{definitions}:project",
        "backfill",
        "--source",
        "other",
        "--no-train",
        "--home",
        str(tmp_path),
        "--json",
    ]
    with mock.patch.dict(os.environ), mock.patch("orchestration.backfill.require"):  # the services would be asked for first
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "other is read by no group" in json.loads(done.stdout)["error"]


PAYMENTS = f"{Path(__file__).parents[1] / 'payments.py'}:project"


@pytest.mark.parametrize(
    ("arguments", "path", "asked"),
    [
        (["features", "--group", "card_at_terminal", "17/t~19", "1/9"], "/features", {"group": "card_at_terminal", "ids": [
            {"card_id": 17, "terminal_id": "t/9"}, {"card_id": 1, "terminal_id": "9"}]}),
        (["features", "--group", "terminals", "t/9"], "/features", {"group": "terminals", "ids": ["t/9"]}),
        (["predict", "17", "--key", "terminal_id=t/9"], "/models/fraud/predict", {"card_id": 17, "terminal_id": "t/9", "context": {}}),
    ],
)  # fmt: skip
def test_the_values_of_an_entity_of_several_columns_are_asked_for_by_name(
    tmp_path: Path, arguments: list[str], path: str, asked: dict[str, Any]
) -> None:
    answer = mock.Mock(return_value={"rows": []})
    with mock.patch.dict(os.environ, {"BRAID_PROJECT": PAYMENTS}), mock.patch("orchestration.cli.answers._post", answer):
        CliRunner().invoke(app, [*arguments, "--home", str(tmp_path), "--json"])
    [call] = answer.call_args_list
    assert call.args[1:] == (path, asked)


def test_an_id_that_lacks_a_value_is_refused(tmp_path: Path) -> None:
    with mock.patch.dict(os.environ, {"BRAID_PROJECT": PAYMENTS}):
        done = CliRunner().invoke(app, ["features", "17", "--group", "card_at_terminal", "--home", str(tmp_path)])
    assert done.exit_code == 1
    assert (
        "The id '17' does not have the form card_id/terminal_id. The entity of card_at_terminal is card_id (int64), terminal_id (string)."
        in done.stderr.replace("\n", " ")
    )


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-01T13:30:00+02:00", "2026-11-01T11:30:00.000Z"), ("2026-11-01T11:30", "2026-11-01T11:30:00.000Z"), ("2026-11-01", "2026-11-01T00:00:00.000Z"),
        ("202611011130", "2026-11-01T11:30:00.000Z"), ("20261101113005", "2026-11-01T11:30:05.000Z"), ("20261101", "2026-11-01T00:00:00.000Z"),
        ("1793532600000", "2026-11-01T11:30:00.000Z"), ("881250949000", "1997-12-04T15:55:49.000Z"),
    ],
)  # fmt: skip
def test_a_time_of_digits_is_the_date_that_it_is_in_a_file(text: str, time: str) -> None:
    assert rfc3339(instant_ms(text)) == time


@pytest.mark.parametrize("text", ["202613011130", "20261101116100", "1793532600", "20261101T25", ""])
def test_digits_that_are_no_time_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        instant_ms(text)


def test_features_shows_ids_and_texts_as_they_are(tmp_path: Path) -> None:
    provenance = {
        "as_of": "now",
        "batch_end": None,
        "newest_event": None,
        "tiles_merged": 0,
        "degraded": False,
        "missing": [],
        "architecture": "lambda",
    }
    features = {"last_items": ["[bio] milk", "[/b]", ":100:"]}
    answer = {"rows": [{"id": "t[red]9", "features": features, "provenance": provenance}]}
    with (
        mock.patch.dict(os.environ, {"BRAID_PROJECT": PAYMENTS, "COLUMNS": "160"}),
        mock.patch("orchestration.cli.answers._post", return_value=answer),
        mock.patch("orchestration.cli.answers._parts", return_value={"batch": None, "tiles": []}),
    ):
        done = CliRunner().invoke(app, ["features", "t[red]9", "--group", "terminals", "--home", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    assert "t[red]9 as of now" in done.stdout
    assert "['[bio] milk', '[/b]', ':100:']" in done.stdout


def test_labels_are_read_with_every_option_that_events_are_read_with(tmp_path: Path) -> None:
    """A refusal of a file names the option that decides, whichever command reads the file."""
    commands = get_command(app).commands
    options = {
        name: {option for parameter in commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name in commands
    }
    reading = options["load"] & options["replay"]
    assert {"--day-first", "--month-first", "--null", "--decimal-comma", "--delimiter"} < reading
    assert reading - {"--source", "file"} <= options["training-set"]
    with mock.patch.dict(os.environ):
        done = CliRunner().invoke(app, ["training-set", "--delimiter", ";;", "--home", str(tmp_path)])
    assert "The delimiter ';;' is not one character." in done.stderr


def test_bounds_of_a_group_that_is_not_declared_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with mock.patch.dict(os.environ, {"BRAID_GROUP_BOUNDS": '{"user_featurs": {"max_age_seconds": 60}}'}):
        done = CliRunner().invoke(app, ["up", "--detach", "--home", str(tmp_path)])
    assert done.exit_code == 1
    assert "BRAID_GROUP_BOUNDS names the group 'user_featurs', which is not declared. Declared are: user_features" in done.stderr
    assert not (tmp_path / "logs").exists()


def test_consistency_waits_until_the_archive_has_what_is_served(tmp_path: Path) -> None:
    """The stream serves an event some seconds before the archive has it: right after `braid replay --wait` each cell seemed to differ."""
    steps: list[str] = []

    def step(name: str, result: Any = None) -> Callable[..., Any]:
        def take(*_: object) -> Any:
            steps.append(name)
            return result

        return take

    report = ProofReport("user_features", 1, 1, 7, 0, [Difference(1, "events_last_hour", 2, 1)])
    with (
        mock.patch.dict(os.environ),
        mock.patch("store.server.reached_store"),
        mock.patch("store.protocol.published_version", side_effect=lambda _, group: group),
        mock.patch("infra.gateway.command_session"),
        mock.patch("orchestration.catch_up.wait_for_archive", step("archive", "caught up with Kafka in 1.0 s")),
        mock.patch("orchestration.known_events.export_known_events", step("events", nullcontext([]))),
        mock.patch("orchestration.proof.sample_ids", step("sample", [1])),
        mock.patch("orchestration.proof.prove", step("comparison", report)),
    ):
        done = CliRunner().invoke(app, ["consistency", "--home", str(tmp_path)])
    assert steps == ["archive", "events", "sample", "comparison"]
    assert done.exit_code == 1
    assert "The archive of the events: caught up with Kafka in 1.0 s." in done.stderr


def test_models_shows_what_each_version_was_trained_on(tmp_path: Path, empty_registry: Callable[[Path], str]) -> None:
    """The versions of a model with several inputs differ by more than the first of its groups."""
    uri = empty_registry(tmp_path)
    client = MlflowClient(uri)
    client.create_registered_model("fraud")
    for tags in ({"group_fingerprint": "of-cards"}, {"group_fingerprint": "of-cards", "fingerprint": "of-the-inputs"}):
        client.create_model_version("fraud", str(tmp_path), tags=tags)
    environment = {"BRAID_PROJECT": PAYMENTS, "MLFLOW_TRACKING_URI": uri, "COLUMNS": "160"}
    with mock.patch.dict(os.environ, environment):
        done = CliRunner().invoke(app, ["models", "--model", "fraud", "--home", str(tmp_path)])
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["2", "of-the-inputs"], ["1", "of-cards"]]


def test_status_of_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    done = braid(tmp_path, "status", "--json")
    output = json.loads(done.stdout)
    assert done.returncode == 0
    assert output["healthy"] is False
    assert set(output["urls"]) == {"dagster", "serving", "mlflow", "kafka", "redis", "data docs"}
    assert braid(tmp_path, "down").returncode == 0


def test_a_setting_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAID_WATERMARK_SECONDS", "soon")
    done = braid(tmp_path, "status")
    assert done.returncode == 1
    assert "BRAID_WATERMARK_SECONDS" in done.stderr
