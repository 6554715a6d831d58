"""A run that Dagster asks for by itself, on a real instance: once, and after a failure again with growing pauses."""

import time
from collections.abc import Iterator

import dagster as dg
import pytest

from infra.settings import Settings
from orchestration.asking import ATTEMPT, ask, latest_asked
from orchestration.deployment import Deployment
from tests.declarations import project


@dg.op
def work(context: dg.OpExecutionContext) -> None:
    if "fails" in context.run.tags:
        raise ValueError("on purpose")


@dg.job
def the_job() -> None:
    work()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def deployment(settings: Settings) -> Deployment:
    return Deployment(project, settings.model_copy(update={"sensor_seconds": 1}))


def context(instance: dg.DagsterInstance, name: str = "a_sensor") -> dg.SensorEvaluationContext:
    return dg.build_sensor_context(instance=instance, sensor_name=name)


def run(instance: dg.DagsterInstance, request: dg.RunRequest | dg.SkipReason, fails: bool = False) -> None:
    assert isinstance(request, dg.RunRequest), request
    tags = {**request.tags, "dagster/run_key": request.run_key, **({"fails": "yes"} if fails else {})}
    the_job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def test_a_run_that_failed_is_asked_for_again_after_growing_pauses(instance: dg.DagsterInstance, deployment: Deployment) -> None:
    pauses, keys = [], set()
    for attempt in range(1, 4):
        request = ask(context(instance), deployment, "batch:7", {"more": "tags"})
        assert isinstance(request, dg.RunRequest)
        assert request.tags[ATTEMPT] == str(attempt)
        assert request.tags["more"] == "tags"
        keys.add(request.run_key)
        run(instance, request, fails=True)
        ended = instance.get_run_records(limit=1)[0].end_time
        assert ended is not None
        while isinstance(answer := ask(context(instance), deployment, "batch:7"), dg.SkipReason):
            assert f"failed, {attempt} times in a row; the next run is requested at 20" in (answer.skip_message or "")
            time.sleep(0.05)
        pauses.append(time.time() - ended)
    assert len(keys) == 3, "a run key is spent by a run that failed, too"
    assert all(pause >= least for pause, least in zip(pauses, (1, 2, 4), strict=True)), pauses
    run(instance, ask(context(instance), deployment, "batch:7"))
    time.sleep(1.1)
    again = ask(context(instance), deployment, "batch:7")
    assert isinstance(again, dg.RunRequest), "who asks says that it is needed again, after a run that succeeded"


def test_what_is_under_way_is_not_asked_for_again(instance: dg.DagsterInstance, deployment: Deployment) -> None:
    request = ask(context(instance), deployment, "batch:7")
    assert isinstance(request, dg.RunRequest)
    instance.create_run_for_job(the_job, tags=dict(request.tags))
    assert "under way" in (ask(context(instance), deployment, "batch:7").skip_message or "")  # type: ignore[union-attr]
    assert isinstance(ask(context(instance), deployment, "batch:8"), dg.RunRequest)
    assert isinstance(ask(context(instance, "another"), deployment, "batch:7"), dg.RunRequest)


def test_a_run_that_dagster_starts_again_itself_is_left_to_it(instance: dg.DagsterInstance, deployment: Deployment) -> None:
    request = ask(context(instance), deployment, "late:1")
    assert isinstance(request, dg.RunRequest)
    died = instance.create_run_for_job(the_job, tags={**request.tags, "dagster/will_retry": "true"})
    instance.report_run_failed(died)
    time.sleep(1.5)
    assert isinstance(ask(context(instance), deployment, "late:1"), dg.SkipReason)


def test_the_last_run_tells_what_was_asked_for(instance: dg.DagsterInstance, deployment: Deployment) -> None:
    assert latest_asked(context(instance)) == ({}, False)
    run(instance, ask(context(instance), deployment, "late:1", {"count": "1"}), fails=True)
    tags, failed = latest_asked(context(instance))
    assert (tags["count"], failed) == ("1", True)
    run(instance, ask(context(instance), deployment, "late:2", {"count": "2"}))
    tags, failed = latest_asked(context(instance))
    assert (tags["count"], failed) == ("2", False)
