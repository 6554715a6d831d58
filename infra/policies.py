"""The policies that a deployment sets: bounds per group, the behaviour of stale answers per use case, and a running experiment."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupBounds(_Policy):
    """The bounds of a group, for the age of its newest event and for the share of entities with features; beyond them is an alert."""

    max_age_seconds: float = Field(900, gt=0, description="Seconds that the newest event of the group may be old.")
    coverage: float = Field(
        0.95, ge=0, le=1, description="Share of the recently active entities, from 0 to 1, that must have features."
    )


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

    max_age_seconds: float = Field(gt=0, description="Seconds that the newest event of the group may be old.")
    when_stale: WhenStale = Field(
        WhenStale.SERVE,
        description="The answer when it is older: `serve` gives the features, marked as degraded; `batch_only` leaves the speed layer out; "
        "`default` gives the declared defaults; `refuse` answers 503.",
    )


#: The variants: the champion, the challenger, or the champion's batch-only twin.
VariantName = Literal["champion", "challenger", "batch_only"]


class Experiment(_Policy):
    """An A/B test of variants."""

    name: str = Field(min_length=1, max_length=64, description="The name. Another name assigns the users anew.")
    model: str | None = Field(None, description="The model that is tested. Default: the first model of the project.")
    shares: dict[VariantName, float] = Field(
        description="Variant (`champion`, `challenger`, `batch_only`) → its share of the users. The shares add up to 1 and must not change "
        "while the experiment runs. Every other variant is compared with the first."
    )
    shadow: bool = Field(False, description="Whether the other variants are computed and logged for every answer, too.")
    horizon_hours: float = Field(168, gt=0, description="Hours after an answer until its outcome is known.")
    min_entities: int = Field(
        500, gt=1, description="Users with an outcome, per variant, at which the verdict is made. The verdict is made once."
    )

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        if not self.shares or any(share < 0 for share in self.shares.values()) or abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError("the shares of an experiment must not be negative and must add up to 1")
        return self
