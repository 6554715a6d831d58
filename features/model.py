"""The declaration of a model: its inputs (feature groups, request columns, derived features) and the outcome that it predicts.

fraud = Model(
    name="fraud",
    inputs=(cards, terminals.on("terminal_id", prefix="terminal_")),
    request=(RequestColumn("amount", ColumnType.DECIMAL, required=True),),
    derived=(expression("amount_to_mean", "amount / avg_amount_30d"),),
    outcome=Outcome(source=chargebacks, join="transaction_id", at="event_type = 'PAYMENT'", within="7d"),
)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any

from features.declaration import FeatureGroup, ModelInput
from features.declaration.feature import count
from features.errors import DeclarationError
from features.expressions import Expression
from features.names import check_name
from features.objective import Objective, Training
from features.predicates import canonical_predicate
from features.sources import Column, ColumnType, EventSource
from features.vector import RESERVED_FIELDS, FeatureVector, RequestColumn
from features.windows import duration_text, parse_duration


@dataclass(frozen=True)
class Outcome:
    """The outcome that a model predicts: whether an event that meets a condition follows within some time.

    Args:
        where: A SQL condition on the events of the outcome's source. Without a condition every event counts. Required if `join` is None.
        within: A duration such as "7d". An event counts if it lies within this duration after the time of the request.
        at: A SQL condition on the events of the first group's source. Each event that meets the condition is a label point: its features
            are those at the time of the event, without the event itself, and its keys and request columns are the event's columns. Without
            the condition an entity has one label point a week, and further label points shortly after some of its events.
        source: The source of the outcome's events; by default the source of the first group.
        join: A column of both sources, such as "transaction_id". An outcome belongs to the label point with the same value of the column;
            without `join`, to the label points of the same entity of the first group. A request may contain the value of the column, so
            that the outcome of its answer can be determined later.
    """

    where: str | None = None
    within: str = "7d"
    at: str | None = None
    source: EventSource | None = None
    join: str | None = None

    @property
    def within_ms(self) -> int:
        """`within` in milliseconds."""
        return parse_duration(self.within)

    @property
    def text(self) -> str:
        """The outcome's condition as a phrase for descriptions."""
        events = f"an event of {self.source.name}" if self.source else "an event"
        return f"{events} with {self.where}" if self.where else events


class WhenLate(StrEnum):
    """The answer of a model if the online store has not answered within the budget.

    DEFAULTS predicts on the declared defaults of the features. REFUSE answers with the HTTP status 503.
    """

    DEFAULTS = "defaults"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Labels:
    """Labels from a file of the project's owner, instead of an outcome in the events. `braid training-set --labels FILE` loads them.

    A row has the keys of the inputs, the request columns, `time` (the time of the request) and `label`: 0 or 1, a number, or the name of a
    class, according to the objective of the model.

    Args:
        within: The time after which a label is known, such as "1d". The gap between training and evaluation rows has this length.
    """

    within: str = "1d"

    @property
    def within_ms(self) -> int:
        """`within` in milliseconds."""
        return parse_duration(self.within)


@dataclass(frozen=True)
class Model:
    """A model: the groups whose features it reads, the columns that it reads from the request, and the outcome that it predicts.

    Args:
        name: The registered name in MLflow.
        inputs: The groups; `group.on(key, ...)` adds the keys to a group. The model is about the entity of the first group.
        outcome: The outcome, which is the label in training; or `Labels`, which a file provides.
        request: The columns of the request's `context`.
        derived: Features that `expression` makes from the features and the request columns.
        budget_ms: The longest time that an answer may take, in milliseconds. None: the timeout of the online store is the bound.
        when_late: The answer if the online store has not answered within the budget: a prediction on the declared defaults, a refusal, or
            this number as the prediction. Such an answer is marked as degraded.
        objective: What the model predicts: "binary" (the probability of label 1), "regression" (a number), or "multiclass" (the probability
            of each class). The latter two require `Labels`.
        training: The function that fits the model; by default the function of braid, which trains a LightGBM model.

    Attributes:
        vector: The input of the model, made of `inputs`, `request` and `derived`.

    Raises:
        DeclarationError: A name is invalid or used twice, an expression or a value is invalid, or the outcome is invalid.
    """

    name: str
    inputs: tuple[FeatureGroup | ModelInput, ...]
    outcome: Outcome | Labels
    request: tuple[RequestColumn, ...] = ()
    derived: tuple[Expression, ...] = ()
    budget_ms: float | None = None
    when_late: WhenLate | float = WhenLate.DEFAULTS
    objective: Objective = Objective.BINARY
    training: Training | None = None
    vector: FeatureVector = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name("model", self.name)
        if self.budget_ms is not None and not self.budget_ms > 0:
            raise DeclarationError(f"The budget of {self.name} is {self.budget_ms:g} ms.", "Give it some milliseconds, such as 50.")
        self._check_objective()
        declared: Any = self.inputs
        declared = (declared,) if isinstance(declared, FeatureGroup | ModelInput) else declared
        inputs = tuple(entry.on() if isinstance(entry, FeatureGroup) else entry for entry in declared)
        object.__setattr__(self, "inputs", inputs)
        for attribute in ("request", "derived"):
            object.__setattr__(self, attribute, tuple(getattr(self, attribute)))
        try:
            object.__setattr__(self, "vector", FeatureVector(inputs, self.request, self.derived))
            self._check_outcome()
        except DeclarationError as error:
            raise DeclarationError(f"The model {self.name} cannot be used: {error.cause}", error.cure) from None

    @property
    def group(self) -> FeatureGroup:
        """The group of the first input. Its entity is the entity that the model is about."""
        return self.vector.inputs[0].group

    @property
    def groups(self) -> tuple[FeatureGroup, ...]:
        """The groups of all inputs, without duplicates."""
        return tuple({entry.group.name: entry.group for entry in self.vector.inputs}.values())

    @property
    def sources(self) -> tuple[EventSource, ...]:
        """The sources that the training set reads: the sources of the inputs and the source of the outcome."""
        sources = [*(group.source for group in self.groups), *([self.outcome_source] if self.outcome_source else [])]
        return tuple({source.name: source for source in sources}.values())

    @property
    def outcome_source(self) -> EventSource | None:
        """The source that the outcome names for its events; None if it names none (then it is the first group's source), and for `Labels`."""
        return self.outcome.source if isinstance(self.outcome, Outcome) else None

    @property
    def labels(self) -> EventSource | None:
        """The source with the columns of the rows of `Labels`; their table is `labels_{model}`. None for a model with an `Outcome`."""
        if not isinstance(self.outcome, Labels):
            return None
        keys = [Column(key, kind, required=True) for key, kind in self.vector.keys.items()]
        values = [Column(column.name, column.type, column.required) for column in self.request]
        name = f"labels_{self.name}"
        return EventSource(
            name=name, topic=name, table=name, event_id="label_id", time="time", key=keys[0].name,
            columns=(
                Column("label_id", required=True), *keys, Column("time", ColumnType.TIMESTAMP, required=True),
                Column("label", self.objective.label_type, required=True, allowed=self.objective.labels), *values,
            ),
        )  # fmt: skip

    @property
    def label_text(self) -> str:
        """The meaning of the label as a phrase for descriptions."""
        if isinstance(self.outcome, Labels):
            return "the label of the loaded file"
        return f"{self.outcome.text} follows within {self.outcome.within}"

    @property
    def outcome_meaning(self) -> str:
        """What is predicted, in a spelling that white space and units do not change: versions with another meaning cannot be compared."""
        if isinstance(self.outcome, Labels):
            return "the label of the owner"
        outcome, source = self.outcome, self.outcome.source or self.group.source
        where = f" where {canonical_predicate(outcome.where, source, self.name)}" if outcome.where else ""
        joined = f", joined by {outcome.join}" if outcome.join else ""
        return f"an event of {source.name}{where} within {duration_text(outcome.within_ms)}{joined}"

    @property
    def points_are_events(self) -> bool:
        """Whether label points are events or rows of a file. If so, an entity may have several label points at one instant."""
        return isinstance(self.outcome, Labels) or self.outcome.at is not None

    @property
    def outcome_key(self) -> Column | None:
        """The column by which an outcome is joined; None if it is joined by the entity and the time alone, and for `Labels`."""
        if not isinstance(self.outcome, Outcome) or self.outcome.join is None:
            return None
        return self.outcome_group.entity_columns[0]

    @property
    def outcome_field(self) -> str | None:
        """The field of a request that only joins its outcome: `outcome_key`, unless it is a key of an input or a request column; else None."""
        key = self.outcome_key
        known = {*self.vector.keys, *(column.name for column in self.request)}
        return key.name if key is not None and key.name not in known else None

    @property
    def horizon_ms(self) -> int:
        """The time from a request until its outcome is known, in milliseconds."""
        return self.outcome.within_ms

    @property
    def training_table(self) -> str:
        """The name of the Delta table with the training set."""
        return f"training_set_{self.name}"

    @property
    def logged_training_table(self) -> str:
        """The name of the Delta table with the training set of served features."""
        return f"training_set_{self.name}_logged"

    @property
    def outcome_group(self) -> FeatureGroup:
        """A group with the single feature `outcome_events`: the number of events that meet the outcome's condition.

        Its entity is the column `join`, or without `join` the entity of the first group. The label is 1 if this number is larger at the
        horizon than at the time of the request.
        """
        assert isinstance(self.outcome, Outcome)
        events = count("outcome_events", where=self.outcome.where)
        source = self.outcome.source or self.group.source
        return FeatureGroup("outcome_of", self.outcome.join or self.group.entity, source, (events,))

    def _check_objective(self) -> None:
        if self.objective not in set(Objective):
            raise DeclarationError(
                f"The objective of {self.name} is {self.objective!r}.", f"Name one of {', '.join(map(str, Objective))}."
            )
        object.__setattr__(self, "objective", Objective(self.objective))
        if self.objective is not Objective.BINARY and not isinstance(self.outcome, Labels):
            raise DeclarationError(
                f"The outcome of {self.name} is an event that follows or not, and its objective is {self.objective}.",
                "Give the labels by `Labels()`, or leave out the objective.",
            )
        if isinstance(self.when_late, WhenLate):
            return
        right = {
            Objective.BINARY: 0 <= self.when_late <= 1,
            Objective.REGRESSION: isfinite(self.when_late),
            Objective.MULTICLASS: False,
        }
        if not right[self.objective]:
            raise DeclarationError(
                f"The prediction of {self.name} when it is late is {self.when_late}.",
                "Give a probability, for a regression a number, or a `WhenLate`.",
            )

    def _check_outcome(self) -> None:
        outcome, source = self.outcome, self.group.source
        _ = self.horizon_ms
        if isinstance(outcome, Labels):
            _ = self.labels
            return
        _ = self.outcome_group
        if self.outcome_field in RESERVED_FIELDS:
            raise DeclarationError(
                f"The outcome of {self.name} is joined by {self.outcome_field!r}, which is a field of the API already.",
                "Rename the column of the source.",
            )
        if outcome.at is not None:
            canonical_predicate(outcome.at, source, f"outcome of {self.name}")
        if outcome.where is None and outcome.join is None:
            raise DeclarationError(
                f"The outcome of {self.name} has no condition.", "Give one by `where`, or join events by `join`."
            )
        keys = dict.fromkeys(key for entry in self.vector.inputs[1:] for key in entry.keys)
        needed = [*keys, *(column.name for column in self.request)]
        needed += [outcome.join] if outcome.join is not None else []
        if outcome.at is None and needed:
            raise DeclarationError(
                f"The label points of {self.name} need {', '.join(needed)}, which no event tells.",
                "Name the events that are label points by `Outcome(at=...)`.",
            )
        for name in needed:
            column = source.column(name)
            kind = self.vector.keys.get(name) or next((entry.type for entry in self.request if entry.name == name), None)
            if column is None or (kind is not None and column.type is not kind):
                raise DeclarationError(
                    f"The model {self.name} needs {name!r}{f', {kind.name.lower()},' if kind else ''} at its label points, "
                    f"and {source.name} has no such column.",
                    "Add the column to the source, or correct the declaration.",
                )
