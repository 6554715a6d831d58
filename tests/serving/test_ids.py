"""The ids of a request become those of the store, or the request is refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from features.declaration import FeatureGroup
from serving.contract import FeaturesRequest, predict_contract, score_contract
from serving.errors import RefusalError
from serving.ids import key_of, keys_of
from tests.payments import card_at_terminal, cards, fraud, terminals


def test_an_entity_of_several_columns_is_an_object_in_any_order_of_its_columns() -> None:
    ids = [{"card_id": 17, "terminal_id": "t/9"}, {"terminal_id": "17", "card_id": "9"}]
    body = FeaturesRequest.model_validate({"group": "card_at_terminal", "ids": ids})
    assert body.ids == ids
    assert keys_of(card_at_terminal, body.ids) == ["17/t~19", "9/17"]
    assert [card_at_terminal.request_id(key) for key in ("17/t~19", "9/17")] == [ids[0], {"card_id": 9, "terminal_id": "17"}]


def test_an_entity_of_one_column_is_its_value() -> None:
    assert keys_of(cards, [1, "-2", "0"]) == [1, -2, 0]
    assert keys_of(cards, [str(-(2**63)), str(2**63 - 1)]) == [-(2**63), 2**63 - 1]
    assert keys_of(terminals, ["1/2", "~"]) == ["1/2", "~"]


@pytest.mark.parametrize(
    ("group", "ids", "says"),
    [
        (cards, [1, "x"], "The id at position 1 is not an integer."),
        (cards, ["01"], "The id at position 0 is not an integer."),
        (cards, [str(2**63)], "The id at position 0 is not an integer."),
        (cards, [{"card_id": 1}], "The id at position 0 is not an integer."),
        (terminals, ["t", 7], "The id at position 1 is not a text."),
        (card_at_terminal, ["1/t9"], "The id at position 0 is not an object of card_id, terminal_id."),
        (card_at_terminal, [{"card_id": 1}], "The id at position 0 is not an object of card_id, terminal_id."),
        (card_at_terminal, [{"card_id": 1, "terminal_id": "t", "more": 1}], "The id at position 0 is not an object of"),
        (card_at_terminal, [{"card_id": 1, "terminal_id": "t"}, {"card_id": "x", "terminal_id": "t"}], "The card_id of the id at position 1 is not an integer."),
        (card_at_terminal, [{"card_id": 1, "terminal_id": 9}], "The terminal_id of the id at position 0 is not a text."),
    ],
)  # fmt: skip
def test_an_id_that_does_not_fit_is_refused_with_a_sentence(group: FeatureGroup, ids: list[Any], says: str) -> None:
    with pytest.raises(RefusalError) as refused:
        keys_of(group, ids)
    assert refused.value.status == 422
    assert says in str(refused.value)


def test_an_empty_part_of_an_id_is_refused_by_the_contract() -> None:
    with pytest.raises(ValidationError):
        FeaturesRequest.model_validate({"group": "card_at_terminal", "ids": [{"card_id": 1, "terminal_id": ""}]})


def test_the_requests_of_a_model_have_each_key_once_and_make_the_id_of_each_input() -> None:
    request, response = predict_contract(fraud)
    assert [name for name in request.model_fields if name.endswith("_id")] == ["card_id", "terminal_id", "payment_id"]
    assert not request.model_fields["payment_id"].is_required(), "it only names what the outcome is joined by"
    assert {"card_id", "terminal_id"} <= set(response.model_fields)
    asked = request.model_validate({"card_id": "17", "terminal_id": "t/9", "context": {"amount": 1}})
    assert [key_of(entry, [vars(asked)]) for entry in fraud.vector.inputs] == [[17], ["t/9"], ["17/t~19"]]
    score, _ = score_contract(fraud)
    assert {"card_id", "terminal_id"} <= set(score.model_fields)


def test_a_candidate_without_a_part_of_an_id_is_refused_with_a_sentence() -> None:
    pair = fraud.vector.inputs[2]
    assert key_of(pair, [{"card_id": 1, "terminal_id": "t"}, {"card_id": 2, "terminal_id": "t"}]) == ["1/t", "2/t"]
    with pytest.raises(RefusalError, match="The candidate at position 1 has no terminal_id"):
        key_of(pair, [{"card_id": 1, "terminal_id": "t"}, {"card_id": 1, "terminal_id": None}])
