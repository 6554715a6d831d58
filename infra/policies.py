"""The policies that a deployment sets: bounds per group, the behaviour of stale answers per use case, and a running experiment."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupBounds(_Policy):
    """The bounds of a group; beyond them an alert is raised.

    Attributes:
        max_age_seconds: The largest age of the group's newest event.
        coverage: The smallest share of known entities that have features.
    """

    max_age_seconds: float = Field(900, gt=0)
    coverage: float = Field(0.95, ge=0, le=1)


class WhenStale(StrEnum):
    """What serving does when the newest event of a group is too old.

    SERVE answers with the features and marks them as degraded, BATCH_ONLY leaves out the speed layer, DEFAULT answers with the
    declared defaults, REFUSE answers with the status 503.
    """

    SERVE = "serve"
    BATCH_ONLY = "batch_only"
    DEFAULT = "default"
    REFUSE = "refuse"


class UseCase(_Policy):
    """The needs of one kind of caller: the largest age of the newest event, and what serving does when the event is older."""

    max_age_seconds: float = Field(gt=0)
    when_stale: WhenStale = WhenStale.SERVE


#: The variants: the champion, the challenger, or the champion's batch-only twin.
VariantName = Literal["champion", "challenger", "batch_only"]


class Experiment(_Policy):
    """An A/B test of variants.

    Attributes:
        name: The name, which decides which users get which variant. The shares must not change while an experiment of this name runs.
        shares: Variant → its share of the users. The shares add up to 1. Each other variant is compared with the first.
        shadow: Whether the other variants also predict for every answer; their predictions are logged.
        horizon_hours: The time after an answer at which its outcome is known.
        min_entities: The number of users per variant at which the verdict is made. It is fixed before the experiment begins.
    """

    name: str = Field(min_length=1, max_length=64)
    shares: dict[VariantName, float]
    shadow: bool = False
    horizon_hours: float = Field(168, gt=0)
    min_entities: int = Field(500, gt=1)

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        if not self.shares or any(share < 0 for share in self.shares.values()) or abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError("the shares of an experiment must not be negative and must add up to 1")
        return self
