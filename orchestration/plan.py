"""The plan of a backfill after a change of the declaration: what changes, what the backfill costs, and what is served until the backfill ends.

Reads the published versions of the groups in the online store, and the champions of the models in MLflow. Compares them with the project.
"""

from __future__ import annotations

from dataclasses import dataclass

from features.declaration import FeatureGroup
from features.declaration.versions import Change, change, group_of_text, same_meaning
from features.errors import DeclarationError
from features.instants import now_ms, rfc3339, utc_day
from features.model import Model
from features.objective import Objective
from features.project import Project
from features.vector import FeatureVector, vector_of_text
from infra.settings import Settings
from models.registry import CHAMPION, OBJECTIVE_TAG, RegisteredVersion, other_outcome, trained_fingerprint, version_by_alias
from orchestration.first_day import first_day
from orchestration.running import runs
from store.server import reached_store


@dataclass(frozen=True)
class GroupPlan:
    """The plan of one group.

    Attributes:
        group: The name of the group.
        declared: The fingerprint of the declared version.
        served: The fingerprint of the published version; None if no version is published.
        batch_end: The batch_end of the published version, RFC 3339; None if no version is published.
        change: The difference between the published and the declared version; None if this braid cannot read the published version.
        days: How many days of tiles the backfill builds; 0 if the published version is the declared version.
        entities: About how many entities the backfill builds views for: those of the published version; 0 if `days` is 0 or no version is published.
        not_known_to_model: The features that a champion was trained on and that the declared version lacks or declares with another meaning.
            The champion gets their defaults until a new model is trained.
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
        """Whether the published version is the declared version."""
        return self.served == self.declared


def plan(project: Project, settings: Settings) -> list[GroupPlan]:
    """Returns the plan of each group of the project.

    Raises:
        ServiceError: The online store does not answer.
    """
    store = reached_store(settings)
    days = (utc_day(now_ms()) - first_day(settings)).days + 1
    plans = []
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
        plans.append(
            GroupPlan(
                group=group.name,
                declared=group.fingerprint,
                served=published.fingerprint if published else None,
                batch_end=rfc3339(published.batch_end_ms) if published else None,
                change=changed,
                days=0 if settled else days,
                entities=0 if settled or not published else published.entities,
                not_known_to_model=() if settled else _not_known(project, settings, group),
            )
        )
    return plans


@dataclass(frozen=True)
class ModelPlan:
    """The plan of one model.

    Attributes:
        model: The name of the model.
        declared: The fingerprint of the declared input.
        champion: The version of the champion; None without a champion.
        trained: The fingerprint of the input that the champion was trained on; None without a champion.
        change: The difference between the champion's input and the declared input; None if this braid cannot read the champion's input.
    """

    model: str
    declared: str
    champion: str | None
    trained: str | None
    change: Change | None

    @property
    def settled(self) -> bool:
        """Whether the champion was trained on the declared input, for the declared objective and outcome."""
        return self.trained == self.declared and not self.change


def model_plans(project: Project, settings: Settings) -> list[ModelPlan]:
    """Returns the plan of each model of the project; empty if MLflow does not run.

    Raises:
        MlflowException: The registry answers with an error.
    """
    plans = []
    for model in project.models if runs(settings, "mlflow") else ():
        vector, champion = model.vector, version_by_alias(settings, model.name, CHAMPION)
        if champion is None:
            plans.append(ModelPlan(model.name, vector.fingerprint, None, None, Change(vector.names, (), ())))
            continue
        trained_on = _trained_on(model, champion)
        difference = vector.change_since(trained_on) if trained_on else None
        objective = champion.tags.get(OBJECTIVE_TAG, Objective.BINARY)
        if difference is not None and objective != model.objective:
            difference = difference._replace(altered=(*difference.altered, ("prediction", f"{objective} → {model.objective}")))
        if difference is not None and (asked := other_outcome(champion.tags, model)):
            difference = difference._replace(altered=(*difference.altered, ("outcome", f"{asked} → {model.outcome_meaning}")))
        plans.append(ModelPlan(model.name, vector.fingerprint, champion.version, trained_fingerprint(champion.tags), difference))
    return plans


def _not_known(project: Project, settings: Settings, group: FeatureGroup) -> tuple[str, ...]:
    """Returns the features of the group that a champion was trained on and that the declared version lacks or declares with another meaning."""
    models = [model for model in project.models if group in model.groups] if runs(settings, "mlflow") else []
    return tuple(dict.fromkeys(name for model in models for name in _not_known_to(settings, model, group)))


def _not_known_to(settings: Settings, model: Model, group: FeatureGroup) -> tuple[str, ...]:
    champion = version_by_alias(settings, model.name, CHAMPION)
    trained = _trained_on(model, champion) if champion else None
    if trained is None:
        return ()
    versions = [entry.group for entry in trained.inputs if entry.group.name == group.name]
    return tuple(name for version in versions for name in version.model_names if name not in same_meaning(group, version))


def _trained_on(model: Model, version: RegisteredVersion) -> FeatureVector | None:
    """Returns the input that a registered version was trained on; None if this braid cannot read the input."""
    try:
        return vector_of_text(version.tags.get("declaration", ""), model.sources)
    except DeclarationError:
        return None
