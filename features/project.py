"""A project: all that one deployment declares. It is a value in its owner's repository, and each process is given it.

project = Project(sources=(user_events,), groups=(user_features, item_features), models=(repurchase,))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from features.declaration import FeatureGroup
from features.declaration.feature import count
from features.errors import DeclarationError
from features.sources import EventSource
from features.windows import parse_duration

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
#: Tables and topics of braid's own.
_RESERVED_TABLES = re.compile(r"(raw|tiles|view|history|training_set)_.*|.*_realtime|quarantine|served_features|_.*")
_RESERVED_TOPICS = re.compile(r"served_features|.*\.dlq|__.*")

#: Fields of requests and responses of `/predict` beside the entity.
_RESERVED_ENTITIES = {"context", "at", "use_case", "prediction", "features_used", "model", "provenance"}


@dataclass(frozen=True)
class Outcome:
    """What a model learns to foresee: whether an event of a kind follows within some time.

    Args:
        where: A SQL condition on the events of the group's source.
        within: How long after the instant of the question the event counts, such as "7d".
    """

    where: str
    within: str = "7d"

    @property
    def within_ms(self) -> int:
        """`within` in milliseconds."""
        return parse_duration(self.within)


@dataclass(frozen=True)
class Model:
    """A model: which features it is given, and the outcome that it foresees as a probability.

    Args:
        name: The registered name in MLflow.
        group: The group whose features it is given.
        outcome: Its label.

    Attributes:
        horizon_ms: How long an outcome takes to be known.

    Raises:
        DeclarationError: The name, the duration or the condition cannot be used.
    """

    name: str
    group: FeatureGroup
    outcome: Outcome

    def __post_init__(self) -> None:
        _check_name("model", self.name)
        if self.group.entity in _RESERVED_ENTITIES:
            raise DeclarationError(
                f"The model {self.name} is about {self.group.entity!r}, which is a field of the API already.",
                "Rename the column of the entity.",
            )
        _ = self.horizon_ms, self.outcome_group

    @property
    def horizon_ms(self) -> int:
        """How long after a question its outcome is known, in milliseconds."""
        return self.outcome.within_ms

    @property
    def training_table(self) -> str:
        """The Delta table of its training set."""
        return f"training_set_{self.name}"

    @property
    def logged_training_table(self) -> str:
        """The Delta table of its training set of what was served."""
        return f"training_set_{self.name}_logged"

    @property
    def outcome_group(self) -> FeatureGroup:
        """A group with one feature, `outcome_events`: how many events of the outcome's kind the entity has had.

        An outcome has come where there are more of them at the horizon than there were at the question.
        """
        events = count("outcome_events", where=self.outcome.where)
        return FeatureGroup("outcome_of", self.group.entity, self.group.source, (events,))


@dataclass(frozen=True)
class Project:
    """Sources, feature groups and models of one deployment.

    Args:
        sources: At least one; each with a topic and a table of its own.
        groups: At least one; each belongs to one of the sources.
        models: Each on one of the groups. The first is the default model, which `/predict` asks.

    Raises:
        DeclarationError: A name, topic or table is used twice or reserved, or something is used that is not declared.
    """

    sources: tuple[EventSource, ...]
    groups: tuple[FeatureGroup, ...]
    models: tuple[Model, ...] = ()

    def __post_init__(self) -> None:
        for attribute in ("sources", "groups", "models"):
            object.__setattr__(self, attribute, tuple(getattr(self, attribute)))
        if not self.sources or not self.groups:
            raise DeclarationError("A project has at least one source and one group.", "Declare them, such as by `braid init`.")
        _refuse_twins("source", (source.name for source in self.sources))
        _refuse_twins("topic", (source.topic for source in self.sources))
        _refuse_twins("table", (source.table for source in self.sources))
        _refuse_twins("group or model", [*(group.name for group in self.groups), *(model.name for model in self.models)])
        for source in self.sources:
            _check_name("source", source.name)
            _check_name("table", source.table)
            for what, name, reserved in (("table", source.table, _RESERVED_TABLES), ("topic", source.topic, _RESERVED_TOPICS)):
                if reserved.fullmatch(name):
                    raise DeclarationError(
                        f"The {what} {name!r} of {source.name} is reserved for braid's own.", f"Choose another {what}."
                    )
        for group in self.groups:
            if group.source not in self.sources:
                raise DeclarationError(
                    f"The group {group.name} is of the source {group.source.name}, which is not in the project.",
                    "Add the source to the project's sources.",
                )
        for model in self.models:
            if model.group not in self.groups:
                raise DeclarationError(
                    f"The model {model.name} is given {model.group.name}, which is not in the project.",
                    "Add the group to the project's groups.",
                )

    @property
    def default_model(self) -> Model | None:
        """The model that `/predict` asks: the first one; None in a project without models."""
        return self.models[0] if self.models else None

    def source(self, name: str | None) -> EventSource:
        """The source of that name; without a name, the only one.

        Raises:
            DeclarationError: There is none of that name, or no name was given where there are several.
        """
        if name is None:
            if len(self.sources) > 1:
                raise DeclarationError(
                    "The project has several sources.", f"Name one by --source: {', '.join(one.name for one in self.sources)}."
                )
            return self.sources[0]
        return _named("source", self.sources, name)

    def group(self, name: str | None) -> FeatureGroup:
        """The group of that name; without a name, the first one. Raises as `source`."""
        return self.groups[0] if name is None else _named("group", self.groups, name)

    def model(self, name: str | None) -> Model:
        """The model of that name; without a name, the default one. Raises as `source`."""
        if name is not None:
            return _named("model", self.models, name)
        if self.default_model is None:
            raise DeclarationError("The project declares no model.", "Add a Model to its definitions.")
        return self.default_model

    def groups_of(self, source: EventSource) -> tuple[FeatureGroup, ...]:
        """The groups of a source."""
        return tuple(group for group in self.groups if group.source == source)


def _named(what: str, declared: Sequence[Any], name: str) -> Any:
    found = next((one for one in declared if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in declared) or "none"
        raise DeclarationError(f"The {what} {name!r} is not declared.", f"Declared are: {known}.")
    return found


def _refuse_twins(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DeclarationError(f"The project has two of the same {what}: {name!r}.", "Rename one of them.")
        seen.add(name)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"The name {name!r} of a {what} cannot be used.", "Use lower-case letters, digits and underscores, at most 64."
        )
