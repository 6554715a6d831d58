"""What is encoded passes the contract that the API's page shows, field by field."""

from __future__ import annotations

import msgspec
import pytest

from serving import contract, encoding
from tests.declarations import repurchase

PROVENANCE = encoding.Provenance(
    "2026-01-01T00:00:00.000Z", None, "2026-01-01T00:00:00.000Z", 2, True, ["a reason"], ("spend",), ("spend",)
)
MODEL = encoding.ModelInfo("repurchase", "3", "champion")
FEATURES = {"spend": 1.5, "count": 2, "items": ["a", 1], "nothing": None}
ANSWERS = {
    "features": (encoding.FeaturesAnswer([encoding.FeatureRow("é", FEATURES, PROVENANCE)]), contract.FeaturesResponse),
    "features of several columns": (
        encoding.FeaturesAnswer([encoding.FeatureRow({"card_id": 7, "terminal_id": "t/9"}, FEATURES, PROVENANCE)]),
        contract.FeaturesResponse,
    ),
    "predict": (
        encoding.predict_answer(("user_id",))(7, 0.5, {"spend": 1.5}, MODEL, PROVENANCE),
        contract.predict_contract(repurchase)[1],
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_encoded_answer_is_what_the_contract_says(name: str) -> None:
    answer, model = ANSWERS[name]
    encoded = encoding.encoded(answer)
    assert msgspec.json.decode(model.model_validate_json(bytes(encoded)).model_dump_json()) == msgspec.json.decode(encoded)
