"""What a deployment decides for itself: bounds per group, what a stale answer does per use case, and a running experiment."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupBounds(_Policy):
    """What a group has to hold: the age of its newest event, and the share of known entities that have features."""

    max_age_seconds: float = Field(900, gt=0)
    coverage: float = Field(0.95, ge=0, le=1)


class WhenStale(StrEnum):
    """What an answer does when the newest event of its group is too old.

    SERVE marks it as degraded, BATCH_ONLY leaves the speed layer out, DEFAULT gives the declared defaults, REFUSE answers 503.
    """

    SERVE = "serve"
    BATCH_ONLY = "batch_only"
    DEFAULT = "default"
    REFUSE = "refuse"


class UseCase(_Policy):
    """What one kind of caller wants: how old the newest event may be, and what to do when it is older."""

    max_age_seconds: float = Field(gt=0)
    when_stale: WhenStale = WhenStale.SERVE


#: What can answer: the champion, the challenger, or the champion's twin on what batch alone knows.
VariantName = Literal["champion", "challenger", "batch_only"]


class Experiment(_Policy):
    """An A/B test of variants.

    Attributes:
        name: Another name draws the users anew. A running experiment keeps its shares.
        shares: Variant → its share of the users; they add up to 1. The others are compared with the first.
        shadow: Whether the other variants are computed too, and logged, for every answer.
        horizon_hours: How long after an answer its outcome is known.
        min_entities: Users per variant at which the verdict is made, once: a fixed horizon, decided before.
    """

    name: str = Field(min_length=1, max_length=64)
    shares: dict[VariantName, float]
    shadow: bool = False
    horizon_hours: float = Field(168, gt=0)
    min_entities: int = Field(500, gt=1)

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        if not self.shares or any(share < 0 for share in self.shares.values()) or abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError("the shares of an experiment are not negative and add up to 1")
        return self
