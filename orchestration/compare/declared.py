"""The project of a compared deployment, in a file of its home: first the declared groups, later the same groups with one more feature each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from features.declaration import count
from features.project import Project
from infra.project import load_project
from infra.settings import Settings

#: The feature that a changed declaration adds to each group.
ADDED = count("compared_events_1d", window="1d")


def project_of(reference: str, folder: str, changed: bool) -> Project:
    """Returns the groups of a project with their sources, without its models and its assets.

    Args:
        reference: The project, as the setting `project` names it.
        folder: The setting `project_folder`.
        changed: Whether each group also has the feature `ADDED`.
    """
    settings = Settings.load(project=reference).model_copy(update={"project_folder": Path(folder)})
    declared = load_project(settings)
    groups = [replace(group, features=(*group.features, ADDED)) if changed else group for group in declared.groups]
    used = {group.source for group in groups}
    return Project([source for source in declared.sources if source in used], groups)  # type: ignore[arg-type]


def write_definitions(path: Path, settings: Settings, changed: bool) -> Project:
    """Writes a module whose attribute `project` is the result of `project_of`. Returns this project.

    Args:
        path: The file of the module.
        settings: The settings that name the compared project.
        changed: Whether each group also has the feature `ADDED`.
    """
    arguments = settings.project, str(settings.project_folder), changed
    path.write_text(f"from orchestration.compare.declared import project_of\n\nproject = project_of{arguments!r}\n")
    return project_of(*arguments)
