"""The sentence about a run that failed says what the run has left as it was, and nothing else, on runs of Dagster."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from orchestration.execution import _cause
from orchestration.names import candidate_key, events_key, online_key, training_set_key, view_key
from tests.declarations import item_features, project, repurchase, user_events, user_features


def cause_of_a_run(blocked: dg.AssetKey, *keys: tuple[dg.AssetKey, Iterable[dg.AssetKey]]) -> str:
    """The sentence about a run over assets, each with those before it, of which a check blocks one."""

    def asset(key: dg.AssetKey, before: Iterable[dg.AssetKey]) -> dg.AssetsDefinition:
        @dg.asset(key=key, deps=list(before))
        def made() -> None: ...

        return made

    @dg.asset_check(asset=blocked, name="whole", blocking=True)
    def check() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, metadata={"failed": "an id twice"})

    with dg.instance_for_test() as instance:
        assets = [asset(key, before) for key, before in keys]
        run = dg.materialize([*assets, check], instance=instance, raise_on_error=False)
        assert not run.success
        done = {event.asset_key for event in run.get_asset_materialization_events()}
    return _cause(run.all_events, project, {key.to_user_string() for key, _ in keys if key not in done})


def test_a_check_that_blocks_names_the_groups_that_were_not_published() -> None:
    events, view, other = events_key(user_events), view_key(user_features), view_key(item_features)
    published = (online_key(user_features), [view]), (online_key(item_features), [other])
    of_batch = (events, []), (view, [events]), (other, [events]), *published
    assert cause_of_a_run(view, *of_batch) == (
        "The check whole of user_features_view failed: an id twice; in the online store, the batch view of user_features stays as it was."
    )
    assert "of user_features, item_features stays" in cause_of_a_run(events, *of_batch)


def test_a_check_of_a_training_set_says_nothing_of_the_online_store() -> None:
    labels = training_set_key(repurchase)
    assert cause_of_a_run(labels, (labels, []), (candidate_key(repurchase), [labels])) == (
        "The check whole of repurchase_training_set failed: an id twice; no candidate of repurchase was trained."
    )
    # As a run of Kappa: it makes the events alone.
    events = events_key(user_events)
    assert cause_of_a_run(events, (events, [])) == "The check whole of events failed: an id twice."
