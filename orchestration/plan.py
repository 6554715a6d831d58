"""A changed declaration: what it changes, what that will cost, and what is served meanwhile.

Compares the declarations of this code with what the online store says was published.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from features.declaration import FeatureGroup
from features.declaration.versions import Change, change, group_of_text, same_meaning
from features.errors import DeclarationError
from features.project import Model, Project
from infra.settings import Settings
from models.registry import CHAMPION, version_by_alias
from orchestration.first_day import first_day
from orchestration.running import runs
from serving.contract import rfc3339
from store.server import reached_store


@dataclass(frozen=True)
class GroupPlan:
    """What becomes of one group.

    Attributes:
        group: Its name.
        declared: The version of this code.
        served: The version that is published, None where nothing is.
        batch_end: As of when it is, RFC 3339.
        change: What the declared version changes; None where the served one cannot be read any more.
        days: Whose tiles a backfill folds.
        entities: Whose views it builds, about.
        not_known_to_model: The features that the champion then has to do without until another is trained.
    """

    group: str
    declared: str
    served: str | None
    batch_end: str | None
    change: Change | None
    days: int
    entities: int
    not_known_to_model: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether what is served is what is declared."""
        return self.served == self.declared


def plan(project: Project, settings: Settings) -> list[GroupPlan]:
    """What a backfill would recompute, by group.

    Raises:
        ServiceError: The online store does not answer.
    """
    store = reached_store(settings)
    days = (datetime.now(UTC).date() - first_day(settings)).days + 1
    found = []
    for group in project.groups:
        published = store.published(group.name)
        settled = published is not None and published.fingerprint == group.fingerprint
        changed: Change | None = Change((), (), ())
        if published is None:
            changed = Change(group.feature_names, (), ())
        elif not settled:
            try:
                changed = change(group_of_text(published.declaration or "", group.source), group)
            except DeclarationError:
                changed = None
        found.append(
            GroupPlan(
                group.name, group.fingerprint, published.fingerprint if published else None,
                rfc3339(published.batch_end_ms) if published else None, changed,
                0 if settled else days, 0 if settled or not published else published.entities, () if settled else _not_known(project, settings, group),
            )
        )  # fmt: skip
    return found


def _not_known(project: Project, settings: Settings, group: FeatureGroup) -> tuple[str, ...]:
    """Of the champions on the group the features that the declared version does not have, or has with another meaning."""
    models = [model for model in project.models if model.group == group] if runs(settings, "mlflow") else []
    return tuple(dict.fromkeys(name for model in models for name in _not_known_to(settings, model, group)))


def _not_known_to(settings: Settings, model: Model, group: FeatureGroup) -> tuple[str, ...]:
    champion = version_by_alias(settings, model.name, CHAMPION)
    if champion is None:
        return ()
    try:
        trained = group_of_text(champion.tags.get("declaration", ""), group.source)
    except DeclarationError:
        return ()
    known = same_meaning(group, trained)
    return tuple(name for name in trained.model_names if name not in known)
