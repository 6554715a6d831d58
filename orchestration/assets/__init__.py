"""The assets of a project: a module each for speed, batch, lake, serving, models and quality, and the assets that the project itself adds."""

from typing import Any

from features.errors import DeclarationError
from orchestration.assets import batch, lake, models, quality, serving, speed
from orchestration.deployment import Deployment


def assets_of(deployment: Deployment) -> list[Any]:
    """Returns all assets, in the order in which the data flow.

    Raises:
        DeclarationError: An asset that the project itself adds has the name of an asset that is made from the declarations.
    """
    made = [asset for module in (speed, batch, lake, serving, models, quality) for asset in module.assets_of(deployment)]
    names = {spec.key for asset in made for spec in getattr(asset, "specs", [asset])}
    for key in (key for asset in deployment.own_assets for key in asset.keys):
        if key in names:
            raise DeclarationError(
                f"The asset {key.to_user_string()} of {deployment.project.assets} has the name of an asset of braid.",
                "Rename the asset.",
            )
    return [*made, *deployment.own_assets]
