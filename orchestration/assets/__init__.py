"""The assets of a project: a module each for speed, batch, serving, models and quality."""

from typing import Any

from orchestration.assets import batch, lake, models, quality, serving, speed
from orchestration.deployment import Deployment


def assets_of(deployment: Deployment) -> list[Any]:
    """All assets, in the order in which the data flow."""
    return [asset for module in (speed, batch, lake, serving, models, quality) for asset in module.assets_of(deployment)]
