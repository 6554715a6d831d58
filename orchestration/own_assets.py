"""The Dagster assets that the owner of a project adds by `Project.assets`, besides the assets that are made from the declarations."""

import dagster as dg

from features.errors import DeclarationError
from features.project import Project
from infra.project import load_assets
from infra.settings import Settings


def own_assets(project: Project, settings: Settings) -> list[dg.AssetsDefinition]:
    """Returns the assets that the project's function makes; empty if the project names no function.

    Raises:
        DeclarationError: The function cannot be imported, fails, or returns an object that is not an asset.
    """
    function = load_assets(settings, project)
    if function is None:
        return []
    try:
        made = list(function(settings))
    except DeclarationError:
        raise
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise DeclarationError(
            f"The asset function {project.assets} failed: {type(error).__name__}: {first}.", "Correct the function."
        ) from error
    for asset in made:
        if not isinstance(asset, dg.AssetsDefinition):
            raise DeclarationError(
                f"The asset function {project.assets} gave a {type(asset).__name__} among its assets.",
                "Let it return a list of functions under `@dagster.asset`.",
            )
    return made
