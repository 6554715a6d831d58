"""What is encoded passes the contract that the API's page shows, field by field."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from serving import contract, encoding
from serving.answer import feature_rows, served_features
from serving.arrow_answer import arrow_stream, schema_of
from store.protocol import Parts
from tests.declarations import repurchase
from tests.payments import card_at_terminal, cards

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


def test_an_entity_of_several_columns_is_a_struct_in_arrow() -> None:
    requested = [{"card_id": 7, "terminal_id": "t/9"}, {"card_id": -1, "terminal_id": "é"}]
    ids = [card_at_terminal.id_of(list(entity.values())) for entity in requested]
    served = [served_features(card_at_terminal, Parts(faults=("lost",)), 1_000, None) for _ in ids]
    rows = feature_rows(card_at_terminal, requested, served, 1_000)
    with pa.ipc.open_stream(arrow_stream(card_at_terminal, ids, served, 1_000)) as stream:
        batch = stream.read_next_batch()
    assert batch["id"].to_pylist() == requested
    assert batch["payments_3d"].to_pylist() == [msgspec.to_builtins(row.features)["payments_3d"] for row in rows]
    assert batch["provenance.degraded_reasons"].to_pylist() == [list(row.provenance.degraded_reasons) for row in rows]
    assert schema_of(cards).field("amounts").type == pa.list_(pa.float64())
