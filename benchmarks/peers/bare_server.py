"""The peer with the least work for a prediction: Starlette under uvicorn, HGETALL of a plain hash per user, the same booster as braid.

A program of braid's own environment: `python bare_server.py PORT STORE_URL BOOSTER`. It does not merge, validate, or report provenance.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import lightgbm
import numpy as np
import redis.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

port, url, booster_file = sys.argv[1:]
booster, store = lightgbm.Booster(model_file=booster_file), redis.asyncio.Redis.from_url(url)


def row(fields: dict[bytes, bytes]) -> dict[str, float]:
    """Returns the features in a hash."""
    return {name.decode(): float(value) for name, value in fields.items()}


async def predict(request: Request) -> Response:
    """Answers with a prediction about a user."""
    features = row(await store.hgetall(f"user_features:{(await request.json())['user_id']}"))
    score = booster.predict(np.array([list(features.values())]), num_threads=1)[0]
    return answer({"prediction": float(score), "features_used": features})


async def features(request: Request) -> Response:
    """Answers with the features of users."""
    pipeline = store.pipeline(transaction=False)
    for user in (await request.json())["ids"]:
        pipeline.hgetall(f"user_features:{user}")
    return answer({"rows": [row(fields) for fields in await pipeline.execute()]})


def answer(content: Any) -> Response:
    """Returns a response with JSON."""
    return Response(json.dumps(content), media_type="application/json")


app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/features", features, methods=["POST"])])
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)
