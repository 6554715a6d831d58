"""What an asset said of itself when it was last materialized."""

from typing import Any

import dagster as dg


def latest_metadata(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, Any]:
    """The metadata of the latest materialization; empty without one."""
    event = instance.get_latest_materialization_event(asset)
    found = event.asset_materialization.metadata if event and event.asset_materialization else {}
    return {name: value.value for name, value in found.items()}
