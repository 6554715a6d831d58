"""The metadata of an asset's latest materialization."""

from typing import Any

import dagster as dg

#: Metadata of `online_{group}`: the Delta version of the view that was published.
VIEW_VERSION = "view version"


def latest_metadata(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, Any]:
    """Returns name → value of the metadata of an asset's latest materialization; empty if the asset was never materialized."""
    event = instance.get_latest_materialization_event(asset)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    return {name: value.value for name, value in metadata.items()}
