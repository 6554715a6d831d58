"""A project: the sources, feature groups and models of one deployment, declared as one value in the repository of its owner.

project = Project(sources=(user_events,), groups=(user_features, item_features), models=(repurchase,))

`infra.project` loads the project, and every process gets it as an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from features.declaration import FeatureGroup
from features.errors import DeclarationError
from features.model import Model
from features.names import check_name, twin_of
from features.sources import EventSource

#: Names of tables and topics that are reserved for braid's own use.
_RESERVED_TABLES = re.compile(r"(raw|tiles|view|history|training_set|labels)_.*|.*_realtime|quarantine|served_features|_.*")
_RESERVED_TOPICS = re.compile(r"served_features|.*\.dlq|__.*")
_FUNCTION = re.compile(r".+:[A-Za-z_]\w*")
#: The cure in errors about `Project.assets`.
ASSETS_FORM = "Write module:function, such as shop.assets:assets, or path/to/assets.py:assets."


@dataclass(frozen=True)
class Project:
    """The sources, feature groups and models of one deployment.

    Args:
        sources: At least one source. Each source has its own topic and its own table.
        groups: At least one feature group. Each group reads one of the sources.
        models: The models. Each model uses groups of the project. The first model is the default model, which `/predict` uses.
        assets: The function that makes the project's own Dagster assets, as `module:function` or `path/to/assets.py:function`. It is
            a text, so that only the processes of Dagster import the module of the function.

    Raises:
        DeclarationError: There is no source or no group; or a name, topic or table is invalid, reserved or used twice; or a group or a
            model uses a source or a group that is not in the project; or `assets` does not name a function.
    """

    sources: tuple[EventSource, ...]
    groups: tuple[FeatureGroup, ...]
    models: tuple[Model, ...] = ()
    assets: str | None = None

    def __post_init__(self) -> None:
        for attribute in ("sources", "groups", "models"):
            object.__setattr__(self, attribute, tuple(getattr(self, attribute)))
        if not self.sources or not self.groups:
            raise DeclarationError("A project has at least one source and one group.", "Declare them, such as by `braid init`.")
        if self.assets is not None and not _FUNCTION.fullmatch(self.assets):
            raise DeclarationError(f"The assets {self.assets!r} of the project name no function.", ASSETS_FORM)
        _refuse_twins("source", (source.name for source in self.sources))
        _refuse_twins("topic", (source.topic for source in self.sources))
        _refuse_twins("table", (source.table for source in self.sources))
        _refuse_twins("group or model", [*(group.name for group in self.groups), *(model.name for model in self.models)])
        for source in self.sources:
            check_name("source", source.name)
            check_name("table", source.table)
            for what, name, reserved in (("table", source.table, _RESERVED_TABLES), ("topic", source.topic, _RESERVED_TOPICS)):
                if reserved.fullmatch(name):
                    raise DeclarationError(
                        f"The {what} {name!r} of the source {source.name} is reserved for braid's own use.",
                        f"Choose another {what}.",
                    )
        for group in self.groups:
            if group.source not in self.sources:
                raise DeclarationError(
                    f"The group {group.name} reads the source {group.source.name}, which is not in the project.",
                    "Add the source to the project's sources.",
                )
        for model in self.models:
            for group in model.groups:
                if group not in self.groups:
                    raise DeclarationError(
                        f"The model {model.name} uses the group {group.name}, which is not in the project.",
                        "Add the group to the project's groups.",
                    )
            if model.outcome_source is not None and model.outcome_source not in self.sources:
                raise DeclarationError(
                    f"The outcome of {model.name} is in the source {model.outcome_source.name}, which is not in the project.",
                    "Add the source to the project's sources.",
                )

    @property
    def default_model(self) -> Model | None:
        """The model that `/predict` uses: the first model of the project; None in a project without models."""
        return self.models[0] if self.models else None

    def source(self, name: str | None) -> EventSource:
        """Returns the source with a name; if the name is None, the only source.

        Raises:
            DeclarationError: No source has the name, or the name is None and the project has several sources.
        """
        if name is None:
            if len(self.sources) > 1:
                names = ", ".join(source.name for source in self.sources)
                raise DeclarationError("The project has several sources.", f"Name one by --source: {names}.")
            return self.sources[0]
        return _named("source", self.sources, name)

    def group(self, name: str | None) -> FeatureGroup:
        """Returns the group with a name; if the name is None, the first group.

        Raises:
            DeclarationError: No group has the name.
        """
        return self.groups[0] if name is None else _named("group", self.groups, name)

    def model(self, name: str | None) -> Model:
        """Returns the model with a name; if the name is None, the default model.

        Raises:
            DeclarationError: No model has the name, or the name is None and the project has no models.
        """
        if name is not None:
            return _named("model", self.models, name)
        if self.default_model is None:
            raise DeclarationError("The project declares no model.", "Add a Model to its definitions.")
        return self.default_model

    @property
    def batch_sources(self) -> tuple[EventSource, ...]:
        """The sources that the batch layer loads into the lake: the sources of groups and of the outcomes of models."""
        outcomes = [model.outcome_source for model in self.models]
        return tuple(source for source in self.sources if self.groups_of(source) or source in outcomes)

    def groups_of(self, source: EventSource) -> tuple[FeatureGroup, ...]:
        """Returns the groups that read a source."""
        return tuple(group for group in self.groups if group.source == source)


def _named(what: str, declared: Sequence[Any], name: str) -> Any:
    declaration = next((candidate for candidate in declared if candidate.name == name), None)
    if declaration is None:
        known = ", ".join(candidate.name for candidate in declared) or "none"
        raise DeclarationError(f"The {what} {name!r} is not declared.", f"Declared are: {known}.")
    return declaration


def _refuse_twins(what: str, names: Iterable[str]) -> None:
    if (twin := twin_of(names)) is not None:
        raise DeclarationError(f"The project has two declarations with the {what} {twin!r}.", "Rename one of them.")
