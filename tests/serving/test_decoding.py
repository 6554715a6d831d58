"""A struct reads a request as the contract does: what it accepts the contract accepts with the same values, and it accepts what is usual."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from features.model import Labels, Model
from features.sources import ColumnType
from features.vector import RequestColumn
from serving.contract import FeaturesRequest, predict_contract, score_contract
from serving.decoding import decoder, features_struct, predict_struct, score_struct
from serving.errors import RefusalError
from tests.declarations import repurchase
from tests.payments import terminals

ROUTED = Model(
    name="routed",
    inputs=(terminals, terminals.on("other_terminal_id", prefix="other_")),
    request=(
        RequestColumn("amount", ColumnType.DECIMAL, required=True), RequestColumn("channel", default="chip"),
        RequestColumn("minutes", ColumnType.INT64), RequestColumn("opened", ColumnType.TIMESTAMP),
    ),
    outcome=Labels(),
)  # fmt: skip
KEYS, COLUMNS = ["terminal_id", "other_terminal_id"], ["amount", "channel", "minutes", "opened"]
REQUESTS: dict[str, tuple[Any, type[BaseModel], list[str]]] = {
    "features": (features_struct(), FeaturesRequest, ["group", "ids"]),
    "predict": (predict_struct(repurchase), predict_contract(repurchase)[0], ["user_id", "context"]),
    "predict with columns": (predict_struct(ROUTED), predict_contract(ROUTED)[0], [*KEYS, "context"]),
    "score": (score_struct(ROUTED), score_contract(ROUTED)[0], [*KEYS, "context", "candidates"]),
}
SCALARS = st.sampled_from(
    [
        "0", "1", "-0", "7", "1.0", "0.1234567", "1e3", "1e400", "-1e12", "999999999999.9", "01", "1_0", "NaN", "Infinity", "true", "null",
        "9223372036854775807", "9223372036854775808", "-9223372036854775809", "253402300799999", "253402300800000", "1780000000000",
        '""', '"x"', '"5"', '"' + "é" * 64 + '"', '"' + "x" * 65 + '"', '"' + "x" * 257 + '"', '"' + "y" * 4_097 + '"', '"\\ud800"',
        '"\\ud83e\\udd86"', '"\\u0000"', '"2026-05-28T20:26:41Z"', '"2026-05-28T22:26:41.123456+02:00"', '"2026-05-28T20:26:41"',
        '"2026-05-28"', '"1969-12-31T23:59:59Z"', '"20260528T202641Z"', "{}", "[]",
    ]
)  # fmt: skip


def written(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"


def objects(names: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON objects as text; a name may be unknown, or stand there twice."""
    return st.lists(st.tuples(st.sampled_from([*names, "unknown"]), values), max_size=5).map(written)


LISTS = st.lists(SCALARS | objects([*KEYS, *COLUMNS], SCALARS), max_size=3).map(lambda values: f"[{', '.join(values)}]")
COLUMN_VALUES = objects(COLUMNS, SCALARS) | SCALARS.map(lambda value: written([("amount", "3.25"), ("opened", value)]))
VALUES = SCALARS | LISTS | COLUMN_VALUES


def read(struct: Any, body: bytes) -> Any:
    """What the struct makes of a body; None where it refuses."""
    try:
        return msgspec.to_builtins(msgspec.json.decode(body, type=struct))
    except ValueError:
        return None


def agreed(struct: Any, contract: type[BaseModel], body: bytes) -> bool:
    """Whether the struct accepts the body; the contract then does so with the same values."""
    values = read(struct, body)
    if values is None:
        return False
    try:
        expected = contract.model_validate_json(body).model_dump()
    except ValidationError as error:
        raise AssertionError(f"the contract refuses {body!r}: {error}") from None
    assert json.dumps(values, sort_keys=True) == json.dumps(expected, sort_keys=True)
    return True


@pytest.mark.parametrize("name", REQUESTS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_a_struct_accepts_the_contract_accepts_with_the_same_values(name: str, data: st.DataObject) -> None:
    struct, contract, names = REQUESTS[name]
    # Every field that must be there is, mostly with a value that fits; so a wrong one is met alone.
    fitting = {
        "group": '"cards"',
        "ids": '[1, "2"]',
        "user_id": "1",
        "context": '{"amount": 3.25}',
        "candidates": '[{"amount": 1}]',
    }
    pairs = [(field, data.draw(st.just(fitting.get(field, "4")) | VALUES)) for field in names]
    pairs += data.draw(st.lists(st.tuples(st.sampled_from([*names, "at", "use_case", "unknown"]), VALUES), max_size=2))
    body = data.draw(st.permutations(pairs).map(written)).encode()
    if agreed(struct, contract, body):
        assert decoder(struct, contract)(body) is not None
        return
    with suppress(ValidationError):
        contract.model_validate_json(body)
        return
    with pytest.raises(RefusalError) as refusal:
        decoder(struct, contract)(body)
    assert refusal.value.status in (400, 422)


IDS = st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)
INSTANTS = st.integers(0, 253_402_300_799_999) | st.datetimes(timezones=st.timezones()).filter(lambda at: at.year > 1970).map(str)
USUAL_COLUMNS = {
    "channel": st.text(st.characters(codec="utf-8"), max_size=20), "minutes": st.integers(-(2**63), 2**63 - 1), "opened": INSTANTS,
}  # fmt: skip
AMOUNT = {"amount": st.floats(-1e11, 1e11) | st.integers(-(10**11), 10**11)}
COMMON = {"at": INSTANTS | st.none(), "use_case": st.text(st.characters(codec="utf-8"), min_size=1, max_size=64) | st.none()}
USUAL = {
    "features": st.fixed_dictionaries({"group": st.just("cards"), "ids": st.lists(IDS, max_size=5)}, optional=COMMON),
    "predict": st.fixed_dictionaries(
        {"user_id": IDS},
        optional={"context": st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(0, 9)), **COMMON},
    ),
    "predict with columns": st.fixed_dictionaries(
        {**dict.fromkeys(KEYS, IDS), "context": st.fixed_dictionaries(AMOUNT, optional=USUAL_COLUMNS)}, optional=COMMON
    ),
    "score": st.fixed_dictionaries(
        {"candidates": st.lists(st.fixed_dictionaries({}, optional={**AMOUNT, **dict.fromkeys(KEYS, IDS)}), min_size=1, max_size=3)},
        optional={**dict.fromkeys(KEYS, IDS), **COMMON, "context": st.fixed_dictionaries({}, optional={**AMOUNT, **USUAL_COLUMNS})},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_usual_request_is_read_by_its_struct(name: str, data: st.DataObject) -> None:
    struct, contract, _ = REQUESTS[name]
    body = json.dumps(data.draw(USUAL[name]), ensure_ascii=data.draw(st.booleans()))
    assert agreed(struct, contract, body.encode()), body


@pytest.mark.parametrize("column", [{"amount": "12.50"}, {"amount": 1e12}, {"minutes": 2.5}, {"opened": "today"}, {"unknown": 1}])
def test_a_wrong_request_column_has_one_status_wherever_the_request_has_it(column: dict[str, Any]) -> None:
    keys, [name] = dict.fromkeys(KEYS, "t9"), column
    bodies = {
        "predict with columns": ({**keys, "context": {"amount": 1, **column}}, f"context.{name}"),
        "score": ({**keys, "context": column, "candidates": [{"amount": 1}]}, f"context.{name}"),
        "score of candidates": ({**keys, "candidates": [{"amount": 1}, {"amount": 1, **column}]}, f"candidates.1.{name}"),
    }
    for endpoint, (body, where) in bodies.items():
        struct, contract, _ = REQUESTS[endpoint.removesuffix(" of candidates")]
        with pytest.raises(RefusalError, match=f"^The request does not pass validation at {where}: ") as refusal:
            decoder(struct, contract)(json.dumps(body).encode())
        assert refusal.value.status == 422, endpoint


@pytest.mark.parametrize(
    "wrong", [{"candidates": [{"terminal_id": 1.5}]}, {"candidates": [3]}, {"candidates": []}, {"terminal_id": 1.5}]
)
def test_a_wrong_form_of_a_request_about_candidates_has_the_status_400(wrong: dict[str, Any]) -> None:
    struct, contract, _ = REQUESTS["score"]
    body = {**dict.fromkeys(KEYS, "t9"), "candidates": [{"amount": 1}], **wrong}
    with pytest.raises(RefusalError) as refusal:
        decoder(struct, contract)(json.dumps(body).encode())
    assert refusal.value.status == 400


def test_what_only_the_contract_accepts_is_read_by_it() -> None:
    struct, contract, _ = REQUESTS["features"]
    body = b'{"ids": true, "group": "cards", "ids": [1]}'
    assert read(struct, body) is None
    assert decoder(struct, contract)(body).ids == [1]
    assert decoder(None, contract)(b'{"ids": [7], "group": "cards"}').ids == [7]
