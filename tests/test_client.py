"""The typed client: its answers are those of the API's schema, and it repeats what may pass until its deadline."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import numpy as np
import pandas as pd
import pytest

from braid.client import AsyncClient, Client, FeatureRows, Prediction, RefusedError, Scores, UnreachableError

PROVENANCE = {
    "as_of": "2026-11-01T12:00:00.250Z", "batch_end": "2026-11-01T00:00:00.000Z", "newest_event": None, "tiles_merged": 2,
    "degraded": False, "degraded_reasons": [], "degraded_features": [], "missing": ["mean"],
}  # fmt: skip
MODEL = {"name": "fraud", "version": "3", "variant": "champion"}
ROWS = {"rows": [{"id": 2**63 - 1, "features": {"count": 3, "mean": None, "top": ["a", 1]}, "provenance": PROVENANCE}]}
PREDICTION = {"card_id": 7, "prediction": 0.25, "features_used": {"count": 3.0}, "model": MODEL, "provenance": PROVENANCE}
SCORES = {"candidates": [{"prediction": 0.5, "degraded": True}], "model": MODEL, "provenance": PROVENANCE}

Handler = Callable[[httpx.Request], httpx.Response]
#: What a test asks of either client, by the name of the method.
Ask = Callable[..., Any]


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Calls a method of the client for threads, or of that for asyncio, on a transport that answers as `handler` does."""

    def call(
        handler: Handler, method: str, *arguments: Any, deadline_seconds: float = 2.0, api_key: str | None = None, **named: Any
    ) -> Any:
        options: dict[str, Any] = {
            "api_key": api_key,
            "deadline_seconds": deadline_seconds,
            "transport": httpx.MockTransport(handler),
        }
        if request.param == "threads":
            with Client("http://braid", **options) as client:
                return getattr(client, method)(*arguments, **named)

        async def exchange() -> Any:
            async with AsyncClient("http://braid", **options) as client:
                return await getattr(client, method)(*arguments, **named)

        return asyncio.run(exchange())

    return call


class Service:
    """Answers each request with the next of some responses, the last of them again and again; keeps the requests."""

    def __init__(self, *responses: httpx.Response) -> None:
        self.responses, self.requests = list(responses), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]

    @property
    def bodies(self) -> list[tuple[str, Any]]:
        return [(request.url.raw_path.decode(), json.loads(request.content)) for request in self.requests]


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": "No champion can answer.", "cure": "Train one."}, headers=headers)


def test_answers_have_types(ask: Ask) -> None:
    [row] = ask(Service(httpx.Response(200, json=ROWS)), "features", "cards", [2**63 - 1])
    assert (row.id, row.features) == (2**63 - 1, {"count": 3, "mean": None, "top": ["a", 1]})
    assert row.provenance.as_of == datetime(2026, 11, 1, 12, 0, 0, 250_000, UTC)
    prediction = ask(Service(httpx.Response(200, json=PREDICTION)), "predict", {"card_id": 7})
    assert (prediction.prediction, prediction.model.version, prediction.inputs) == (0.25, "3", {})
    scores = ask(Service(httpx.Response(200, json=SCORES)), "score", "fraud", [{"terminal_id": "a"}])
    assert [(score.prediction, score.degraded) for score in scores.candidates] == [(0.5, True)]


def test_requests_have_the_fields_of_the_contract(ask: Ask) -> None:
    features, predict, score = (Service(httpx.Response(200, json=body)) for body in (ROWS, PREDICTION, SCORES))
    ask(features, "features", "cards", [7, "8"], at=datetime(2026, 11, 1, 12, tzinfo=UTC), use_case="checkout", api_key="s3cret")
    assert features.bodies == [
        ("/features", {"group": "cards", "ids": [7, "8"], "at": "2026-11-01T12:00:00Z", "use_case": "checkout"})
    ]
    assert features.requests[0].headers["authorization"] == "Bearer s3cret"
    assert features.requests[0].headers["content-type"] == "application/json"
    ask(predict, "predict", {"card_id": 7})
    ask(predict, "predict", {"card_id": 7}, {"amount": 1.5}, model="../fraud", at=5)
    assert predict.bodies == [
        ("/predict", {"card_id": 7}),
        ("/models/..%2Ffraud/predict", {"card_id": 7, "context": {"amount": 1.5}, "at": 5}),
    ]
    ask(score, "score", "fraud", [{"terminal_id": "a"}], {"card_id": 7}, {"amount": 1.5})
    assert score.bodies == [
        ("/models/fraud/score", {"card_id": 7, "candidates": [{"terminal_id": "a"}], "context": {"amount": 1.5}})
    ]


def test_values_of_frames_and_decimals_are_sent_as_what_they_are(ask: Ask) -> None:
    frame = pd.DataFrame({"card_id": [7, 2**60], "amount": [1.5, np.nan], "at": pd.to_datetime(["2026-11-01T12:00:00Z"] * 2)})
    features, predict = Service(httpx.Response(200, json=ROWS)), Service(httpx.Response(200, json=PREDICTION))
    ask(features, "features", "cards", frame["card_id"].to_numpy(), at=frame["at"][0])
    assert features.bodies == [("/features", {"group": "cards", "ids": [7, 2**60], "at": "2026-11-01T12:00:00+00:00"})]
    context = {"amount": frame["amount"][0], "limit": Decimal("12.50"), "page": np.str_("a"), "none": frame["amount"][1]}
    ask(predict, "predict", {"card_id": frame["card_id"][0]}, context)
    assert predict.bodies == [("/predict", {"card_id": 7, "context": {"amount": 1.5, "limit": 12.5, "page": "a", "none": None}})]
    with pytest.raises(TypeError, match="type object"):
        ask(predict, "predict", {"card_id": object()})


@pytest.mark.parametrize("status", [429, 503])
def test_a_request_is_repeated_while_the_service_is_busy(ask: Ask, status: int) -> None:
    service = Service(busy(status), busy(status), httpx.Response(200, json=ROWS))
    assert len(ask(service, "features", "cards", [1])) == 1
    assert len(service.requests) == 3


def test_a_request_is_repeated_after_the_pause_that_the_service_asks_for(ask: Ask) -> None:
    service = Service(busy(**{"retry-after": "1"}), httpx.Response(200, json=ROWS))
    begun = time.monotonic()
    ask(service, "features", "cards", [1], deadline_seconds=30)
    assert time.monotonic() - begun >= 1
    assert len(service.requests) == 2


@pytest.mark.parametrize("retry_after", ["60", "Thu, 01 Jan 2099 00:00:00 GMT"])
def test_a_pause_that_ends_after_the_deadline_is_not_waited_for(ask: Ask, retry_after: str) -> None:
    service = Service(busy(**{"retry-after": retry_after, "x-request-id": "order-17"}))
    with pytest.raises(RefusedError, match=r"No champion can answer. Train one.") as caught:
        ask(service, "features", "cards", [1], deadline_seconds=20)
    assert (caught.value.status, caught.value.request_id, len(service.requests)) == (503, "order-17", 1)


def test_a_refusal_that_does_not_pass_is_raised_at_once(ask: Ask) -> None:
    service = Service(httpx.Response(404, json={"error": "The group is not declared.", "cure": "Declared are: cards."}))
    with pytest.raises(RefusedError) as caught:
        ask(service, "features", "nope", [1])
    assert (caught.value.status, caught.value.cure, len(service.requests)) == (404, "Declared are: cards.", 1)
    with pytest.raises(RefusedError, match="status 502"):
        ask(Service(httpx.Response(502, text="<html>")), "features", "cards", [1])
    for method in ("features", "features_arrow"):
        with pytest.raises(RefusedError, match="no answer of serving"):
            ask(Service(httpx.Response(200, text="<html>")), method, "cards", [1])


def test_a_service_that_is_not_reachable_is_asked_until_the_deadline(ask: Ask) -> None:
    attempts = []

    def handler(request: httpx.Request) -> httpx.Response:
        attempts.append(request)
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(UnreachableError, match=r"within 0.5 s"):
        ask(handler, "features", "cards", [1], deadline_seconds=0.5)
    assert len(attempts) > 1


def test_a_service_that_does_not_answer_costs_no_more_than_the_deadline() -> None:
    async def exchange() -> None:
        async def silent(_request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError

        async with AsyncClient("http://braid", deadline_seconds=0.2, transport=httpx.MockTransport(silent)) as client:
            await client.features("cards", [1])

    with pytest.raises(UnreachableError):
        asyncio.run(asyncio.wait_for(exchange(), 60))


def resolved(schema: Any, definitions: dict[str, Any]) -> Any:
    """What a JSON schema says about fields and types alone, with references replaced; of a union the set of its types."""
    if "$ref" in schema:
        return resolved(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in schema:
        return sorted((resolved(choice, definitions) for choice in schema["anyOf"]), key=repr)
    if "properties" in schema:
        return {name: resolved(field, definitions) for name, field in schema["properties"].items()}
    if isinstance(additional := schema.get("additionalProperties"), dict):
        return {"*": resolved(additional, definitions)}
    if "items" in schema:
        return [resolved(schema["items"], definitions)]
    return schema.get("type")


def test_the_types_of_the_answers_are_those_of_the_schema_of_the_api() -> None:
    from serving.service import Braid

    api = json.loads(json.dumps(Braid.openapi_spec.asdict(), default=str))  # type: ignore[attr-defined]  # as it is served
    components = api["components"]["schemas"]
    for path, answer in (("/features", FeatureRows), ("/predict", Prediction), ("/models/repurchase/score", Scores)):
        described = api["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        fields = resolved(described, components)
        schema, own = msgspec.json.schema_components([answer], ref_template="#/{name}")
        typed = resolved(schema[0], own)
        if answer is Prediction:
            assert fields.pop("user_id"), "the key, which the caller knows"
            assert typed.pop("inputs"), "of models with several inputs"
        if answer is not FeatureRows:
            part, declared = (typed["candidates"][0], fields["candidates"][0]) if answer is Scores else (typed, fields)
            assert declared.pop("prediction") in part.pop("prediction"), "which is of the model's objective"
        assert typed == fields, path


def test_declarations_do_not_import_the_client() -> None:
    program = (
        "import sys, braid; assert 'httpx' not in sys.modules; "
        "from braid import Client; assert Client.__module__ == 'braid.client.clients'; assert 'Client' not in braid.__all__"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
