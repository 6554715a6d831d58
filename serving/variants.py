"""Assigns each entity to a variant of an experiment: the registered model that answers about the entity, and the features that this model gets.

Without an experiment the champion answers about every entity. In an experiment the variant of an entity depends only on the name and the shares
of the experiment and on the entity's id, so every process assigns the same variant for as long as the experiment runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from features.model import Model
from infra.policies import Experiment, VariantName
from infra.settings import Settings
from models.registry import CHALLENGER, CHAMPION, batch_only_name
from serving.model import FollowedModel, LoadedModel


@dataclass(frozen=True)
class Variant:
    """A registered model that may answer, and the features that it gets.

    Attributes:
        name: The name of the variant.
        model: The registered name of the variant's model.
        alias: The alias in the registry that the variant follows.
        batch_only: Whether the model gets the features of the batch view alone; otherwise it gets the merged features.
    """

    name: VariantName
    model: str
    alias: str
    batch_only: bool = False


def known_variants(model: Model) -> dict[VariantName, Variant]:
    """Returns all variants of a model by name."""
    name = model.name
    return {
        "champion": Variant("champion", name, CHAMPION),
        "challenger": Variant("challenger", name, CHALLENGER),
        "batch_only": Variant("batch_only", batch_only_name(name), CHAMPION, batch_only=True),
    }


def place(salt: str, entity: int | str) -> float:
    """Returns a pseudo-random number in [0, 1) for an entity: uniform over entities, equal in every process, independent between salts."""
    digest = hashlib.blake2b(f"{salt}:{entity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:6]) / 2**48


def assigned(experiment: Experiment, entity: int | str) -> VariantName:
    """Returns the variant to which the experiment assigns an entity."""
    point, end = place(experiment.name, entity), 0.0
    names = list(experiment.shares)
    for name in names[:-1]:
        end += experiment.shares[name]
        if point < end:
            return name
    return names[-1]


class Models:
    """The loaded models of the champion and of the experiment's variants; a thread per variant follows the variant's alias in the registry.

    Args:
        settings: The settings that name the registry.
        model: The declaration of the model.
        on_change: Called with a variant and its model each time a model begins to answer.
        experiment: The running experiment, if it is about this model.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        on_change: Callable[[Variant, LoadedModel], None],
        experiment: Experiment | None = None,
    ) -> None:
        self.experiment = experiment
        known = known_variants(model)
        self._variants = {name: known[name] for name in ("champion", *(self.experiment.shares if self.experiment else ()))}
        self._models = {
            variant.name: FollowedModel(settings, model, variant.model, variant.alias, partial(on_change, variant))
            for variant in self._variants.values()
        }

    @property
    def champion(self) -> FollowedModel:
        """The champion, which answers when the variant of an entity has no model."""
        return self._models["champion"]

    @property
    def followed(self) -> dict[VariantName, FollowedModel]:
        """The champion and the variants of the experiment, each with the model that it follows."""
        return dict(self._models)

    def start(self) -> None:
        """Starts the threads that load the models now and follow their aliases."""
        for model in self._models.values():
            model.start()

    def stop(self) -> None:
        """Ends the threads."""
        for model in self._models.values():
            model.stop()

    def of(self, entity: int | str | None) -> tuple[Variant, LoadedModel | None, bool]:
        """Returns the variant that answers about an entity, its model, and whether the answer counts in the experiment.

        Without an experiment or an entity, the champion answers. If the assigned variant has no loaded model, the champion answers, too. Neither
        answer counts in the experiment. If no champion is loaded, the model is None.
        """
        if self.experiment is not None and entity is not None:
            variant = self._variants[assigned(self.experiment, entity)]
            model = self._models[variant.name].current
            if model is not None:
                return variant, model, True
        return self._variants["champion"], self.champion.current, False

    def shadows(self, variant: Variant) -> list[tuple[Variant, LoadedModel]]:
        """Returns the other variants of a shadow experiment, with their models. Their predictions are logged; empty without a shadow experiment."""
        if self.experiment is None or not self.experiment.shadow:
            return []
        others = ((self._variants[name], self._models[name].current) for name in self.experiment.shares if name != variant.name)
        return [(other, model) for other, model in others if model is not None]
