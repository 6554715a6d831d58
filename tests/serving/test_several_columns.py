"""A model over a card, a terminal and their pair: all three in one read of the store, for one request and for many candidates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from features.packed import FORMAT, BatchValue, FeatureView, encode
from infra.settings import Settings
from models.formats import Scorer
from serving.console.app import Console
from serving.console.explanation import Explanation
from serving.console.requests import EntityRequest
from serving.contract import predict_contract, score_contract
from serving.errors import RefusalError
from serving.model import LoadedModel
from serving.predicting import Predictor
from serving.variants import known_variants
from store.protocol import View
from store.reading import OnlineStore
from store.server import open_store
from tests.payments import fraud, project

B = 1_780_000_200_000
#: Group → id → the count that is published of it; of the other features nothing is known.
COUNTS: dict[str, dict[int | str, int]] = {
    "cards": {17: 5, 18: 6},
    "terminals": {"t/9": 50, "8/t": 60},
    "card_at_terminal": {"17/t~19": 3, "18/t~19": 4, "17/8~1t": 7},
}
declared = replace(fraud, budget_ms=None)


class FirstInputs:
    """A booster whose prediction is a digit for each group."""

    def predict(self, rows: Any, num_threads: int) -> list[float]:
        names = declared.vector.names
        places = [names.index(name) for name in ("payments_1h", "terminal_payments_1h", "pair_payments_3d")]
        return [float(row[places[0]] + row[places[1]] * 10 + row[places[2]] * 1_000) / 100_000 for row in rows]


@pytest.fixture
def filled(valkey: Settings) -> Settings:
    online = open_store(valkey)
    for group in project.groups:
        view = online.begin_publication(group, View(B, 1))
        counts = COUNTS[group.name]
        features = [
            [FeatureView(number, [], []), *[FeatureView(None, [], [])] * (len(group.features) - 1)] for number in counts.values()
        ]
        values = [encode(BatchValue(FORMAT, group.fingerprint, B, B - 1, of_entity)) for of_entity in features]
        online.put_views(group, view, list(counts), values)
        online.end_publication(group, view, len(counts), B - 1)
    return valkey


def answered(settings: Settings, action: str, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """The answer, the records of the served log, and how often the store was read."""
    records: list[Callable[[], dict[str, Any]]] = []
    champion = LoadedModel("fraud", "1", Scorer(declared.vector.names, declared.objective, (), FirstInputs()), declared.vector)
    models = SimpleNamespace(
        of=lambda subject: (known_variants(declared)["champion"], champion, False),
        champion=SimpleNamespace(current=champion),
        experiment=None,
    )
    log = SimpleNamespace(wants=lambda entity: True, add=records.append)
    request = (predict_contract if action == "predict" else score_contract)(declared)[0].model_validate({"at": B, **body})

    async def run() -> tuple[bytes, int]:
        store = OnlineStore(settings)
        with mock.patch.object(store, "read_all", wraps=store.read_all) as read:
            predictor = Predictor(settings, declared, models, store, mock.Mock(stale=lambda *_: None), log, mock.Mock())  # type: ignore[arg-type]
            response = await getattr(predictor, action)(request)
        await store.close()
        return response, read.call_count

    encoded, reads = asyncio.run(run())
    return json.loads(encoded), [record() for record in records], reads


def test_a_prediction_reads_the_pair_with_its_parts_and_names_them(filled: Settings) -> None:
    answer, records, reads = answered(filled, "predict", {"card_id": 17, "terminal_id": "t/9", "context": {"amount": 1}})
    assert (answer["card_id"], answer["terminal_id"], answer["prediction"]) == (17, "t/9", 0.03505)
    assert answer["features_used"]["pair_payments_3d"] == 3
    assert set(answer["inputs"]) == {"cards", "terminal_terminals", "pair_card_at_terminal"}
    assert answer["provenance"]["degraded"] is False
    assert [(record["group"], record["entity"]) for record in records] == [
        ("cards", "17"), ("terminals", "t/9"), ("card_at_terminal", "17/t~19"),
    ]  # fmt: skip
    assert reads == 1


def test_candidates_share_a_part_of_their_pairs(filled: Settings) -> None:
    candidates = [{"terminal_id": "t/9"}, {"terminal_id": "8/t"}, {"terminal_id": "t/9", "card_id": 18}, {"terminal_id": "17"}]
    answer, _, reads = answered(filled, "score", {"card_id": 17, "context": {"amount": 1}, "candidates": candidates})
    assert [candidate["prediction"] for candidate in answer["candidates"]] == [0.03505, 0.07605, 0.04506, 0.00005]
    assert reads == 1


def test_the_console_finds_an_entity_of_several_columns_by_its_id_and_refuses_what_is_none(filled: Settings) -> None:
    async def explanations(*ids: int | str) -> list[Explanation]:
        online = OnlineStore(filled)
        console = Console(filled, project, online, {})
        try:
            return [await console.entity(EntityRequest(group="card_at_terminal", id=entity_id, at=B)) for entity_id in ids]
        finally:
            await online.close()

    assert [explanation.features[0].merged for explanation in asyncio.run(explanations("17/t~19", "017/t~19", "17/8~1t"))] == [
        3,
        3,
        7,
    ]
    for wrong in (17, "17", "17/t/9", "t9/17"):
        with pytest.raises(RefusalError, match="does not have the form card_id/terminal_id"):
            asyncio.run(explanations(wrong))
