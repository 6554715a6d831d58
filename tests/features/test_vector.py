"""The input of a model: names, keys, versions, and that a request and a row of a training set give the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.declaration import count
from features.errors import DeclarationError
from features.expressions import expression
from features.model import Model, Outcome
from features.sources import ColumnType
from features.vector import FeatureVector, RequestColumn, vector_of_text, vector_text
from tests.declarations import item_features, repurchase, user_features
from tests.payments import cards, fraud, payments, terminals

VECTOR = fraud.vector
NAMES = (
    "payments_1h",
    "mean_amount_1d",
    "terminal_payments_1h",
    "terminal_payments_1d",
    "pair_payments_3d",
    "pair_spend_3d",
    "amount",
    "amount_to_mean",
    "channel_bucket",
    "hour",
)


def test_a_vector_names_its_inputs_in_the_order_of_the_declaration_without_lists_and_texts() -> None:
    assert VECTOR.names == NAMES
    assert VECTOR.keys == {"card_id": ColumnType.INT64, "terminal_id": ColumnType.STRING}
    assert repurchase.vector.fingerprint == user_features.fingerprint, "a model on one group alone has the version of the group"


numbers = st.none() | st.floats(-1e6, 1e6) | st.integers(0, 5)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "payments_1h": numbers, "mean_amount_1d": numbers, "terminal_payments_1h": numbers, "terminal_payments_1d": numbers,
                "pair_payments_3d": numbers, "pair_spend_3d": numbers,
                "amount": numbers, "channel": st.none() | st.text(max_size=4), "q_ms": st.integers(0, 2_000_000_000_000),
            }
        ),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_a_request_gives_the_numbers_of_the_row_of_a_training_set_to_the_bit(rows: list[dict[str, Any]]) -> None:
    matrix = VECTOR.matrix(pd.DataFrame(rows).astype({"channel": object}))
    for row, expected in zip(rows, matrix.tolist(), strict=True):
        own = {name: row[name] for name in ("payments_1h", "mean_amount_1d")}
        others = {name: row[f"terminal_{name}"] for name in ("payments_1h", "payments_1d")}
        pair = {name: row[f"pair_{name}"] for name in ("payments_3d", "spend_3d")}
        vector = VECTOR.of([own, others, pair], {"amount": row["amount"], "channel": row["channel"]}, row["q_ms"])
        assert [number.hex() for number in vector] == [number.hex() for number in expected]
        assert not any(math.isnan(number) for number in vector)


def test_what_is_missing_has_its_declared_default() -> None:
    vector = dict(zip(NAMES, VECTOR.of([{}, {}, {}], {}, 3_600_000 * 13), strict=True))
    assert vector["mean_amount_1d"] == -1.0, "the default of the feature"
    assert vector["amount"] == 0.0
    assert vector["amount_to_mean"] == 0.0, "null in the expression, and not the defaults of its parts"
    assert vector["hour"] == 13.0
    assert (
        vector["channel_bucket"] == dict(zip(NAMES, VECTOR.of([{}, {}, {}], {"channel": "chip"}, 0), strict=True))["channel_bucket"]
    )
    assert VECTOR.of([{}, {}, {}], {"amount": "7"}, 0) == VECTOR.of([{}, {}, {}], {}, 0), "a text is no amount"


@pytest.mark.parametrize("vector", [VECTOR, repurchase.vector], ids=["several inputs", "one group"])
def test_a_vector_is_read_back_from_its_text(vector: FeatureVector) -> None:
    sources = (payments, user_features.source)
    again = vector_of_text(vector_text(vector), sources)
    assert (again, again.fingerprint, again.names) == (vector, vector.fingerprint, vector.names)
    with pytest.raises(DeclarationError, match="cannot be read"):
        vector_of_text("{", sources)
    with pytest.raises(DeclarationError):
        vector_of_text(vector_text(vector), ())


@pytest.mark.parametrize(
    "change",
    [
        {"derived": (*fraud.derived[:-1], expression("hour", "hour_of_day(request_time) + 1"))},
        {"derived": (*fraud.derived[:-1], expression("hour", "hour_of_day(request_time)", default=1.0))},
        {"request": (fraud.request[0], RequestColumn("channel", default="web"))},
        {"inputs": (cards, terminals.on("terminal_id", prefix="at_"), fraud.inputs[2])},
        {"inputs": (replace(cards, features=(*cards.features, count("payments_1d", window="1d"))), *fraud.inputs[1:])},
    ],
    ids=["expression", "default", "request column", "prefix", "group"],
)
def test_whatever_changes_a_number_changes_the_version(change: dict[str, Any]) -> None:
    assert replace(fraud, **change).vector.fingerprint != VECTOR.fingerprint


def test_white_space_and_comments_of_an_expression_do_not_change_the_version() -> None:
    derived = (expression("amount_to_mean", "amount   /\n mean_amount_1d -- of the day"), *fraud.derived[1:])
    assert replace(fraud, derived=derived).vector.fingerprint == VECTOR.fingerprint


OUTCOME = Outcome(where="event_type = 'PURCHASE'")


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: Model("m", (), OUTCOME), "has no inputs"),
        (lambda: Model("m", (cards, cards.on("other_card")), fraud.outcome), "two inputs named 'cards'"),
        (lambda: Model("m", (cards, terminals.on("terminal_id")), fraud.outcome), "two features or columns named 'payments_1h'"),
        (lambda: Model("m", (cards, terminals.on("card_id", prefix="t_")), fraud.outcome), "'card_id' has two types"),
        (lambda: replace(fraud, request=(RequestColumn("card_id"),)), "two features or columns named 'card_id'"),
        (lambda: replace(fraud, derived=(expression("amount", "1"),)), "two features or columns named 'amount'"),
        (lambda: replace(fraud, derived=(expression("x", "amounts + 1"),)), "amounts"),
        (lambda: replace(fraud, derived=(expression("x", "channel + 1"),)), "x"),
        (lambda: Model("m", (user_features.on("context"),), OUTCOME), "field of the API"),
        (lambda: Model("m", (user_features, item_features.on("item_id")), OUTCOME), "need item_id"),
        (lambda: Model("m", (user_features,), OUTCOME, request=(RequestColumn("amount"),)), "need amount"),
        (lambda: replace(fraud, outcome=replace(fraud.outcome, at=None)), "need terminal_id, card_id, amount, channel, payment_id"),
        (lambda: replace(fraud, request=(RequestColumn("device"),), derived=()), "payments has no such column"),
        (lambda: replace(fraud, request=(RequestColumn("amount", ColumnType.INT64),), derived=()), "payments has no such column"),
        (lambda: replace(fraud, outcome=Outcome(at="amount > 0")), "has no condition"),
        (lambda: replace(fraud, outcome=replace(fraud.outcome, at="nothing > 0")), "nothing"),
        (lambda: replace(fraud, outcome=replace(fraud.outcome, join="order_id")), "order_id"),
        (lambda: RequestColumn("at"), "cannot be used"),
        (lambda: RequestColumn("m", ColumnType.MAP), "is a map"),
        (lambda: RequestColumn("a", ColumnType.DECIMAL, default="x"), "is no decimal"),
        (lambda: RequestColumn("a", required=True, default="x"), "is required and has a default"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_refused_with_a_sentence(declare: Any, says: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    assert says in str(refused.value)
