"""Variants: which registered model, on which features, answers whom. Without an experiment everybody gets the champion.

A user's variant depends on the experiment's name and the user alone: it is the same in every process, and for as long as it runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from features.project import Model
from infra.policies import Experiment, VariantName
from infra.settings import Settings
from models.registry import CHALLENGER, CHAMPION, batch_only_name
from serving.model import FollowedModel, LoadedModel


@dataclass(frozen=True)
class Variant:
    """A way to answer: a registered model by its alias, on merged features or on those that batch alone knows."""

    name: VariantName
    model: str
    alias: str
    batch_only: bool = False


def known_variants(model: Model) -> dict[VariantName, Variant]:
    """The variants by name."""
    name = model.name
    return {
        "champion": Variant("champion", name, CHAMPION),
        "challenger": Variant("challenger", name, CHALLENGER),
        "batch_only": Variant("batch_only", batch_only_name(name), CHAMPION, batch_only=True),
    }


def place(salt: str, entity: int | str) -> float:
    """Where an entity falls in [0, 1): evenly spread, the same in every process, independent between salts."""
    digest = hashlib.blake2b(f"{salt}:{entity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:6]) / 2**48


def assigned(experiment: Experiment, entity: int | str) -> VariantName:
    """The variant of an entity."""
    point, end = place(experiment.name, entity), 0.0
    names = list(experiment.shares)
    for name in names[:-1]:
        end += experiment.shares[name]
        if point < end:
            return name
    return names[-1]


class Models:
    """The models of all variants that may answer, each followed.

    Args:
        settings: Where the registry is, and the experiment.
        model: The declaration.
        on_change: Called with the variant and each model that begins to answer.
    """

    def __init__(self, settings: Settings, model: Model, on_change: Callable[[Variant, LoadedModel], None]) -> None:
        self.experiment = settings.experiment
        known = known_variants(model)
        self._variants = {name: known[name] for name in ("champion", *(self.experiment.shares if self.experiment else ()))}
        self._models = {
            one.name: FollowedModel(settings, model.group, one.model, one.alias, lambda model, one=one: on_change(one, model))  # type: ignore[misc]
            for one in self._variants.values()
        }

    @property
    def champion(self) -> FollowedModel:
        """The model that answers where no other does."""
        return self._models["champion"]

    def start(self) -> None:
        """Looks for all models now and from then on, in the background."""
        for model in self._models.values():
            model.start()

    def stop(self) -> None:
        """Ends the threads."""
        for model in self._models.values():
            model.stop()

    def of(self, entity: int | str) -> tuple[Variant, LoadedModel | None, bool]:
        """The variant and the model that answer about the entity, and whether that is an exposure of the experiment.

        A variant without a model must not cost an answer: the champion's is none of the experiment's. Without a champion, None.
        """
        if self.experiment is not None:
            variant = self._variants[assigned(self.experiment, entity)]
            model = self._models[variant.name].current
            if model is not None:
                return variant, model, True
        return self._variants["champion"], self.champion.current, False

    def shadows(self, variant: Variant) -> list[tuple[Variant, LoadedModel]]:
        """The experiment's other variants, which are computed beside `variant`, with their models."""
        if self.experiment is None or not self.experiment.shadow:
            return []
        found = ((self._variants[name], self._models[name].current) for name in self.experiment.shares if name != variant.name)
        return [(one, model) for one, model in found if model is not None]
