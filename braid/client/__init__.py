"""A typed client of serving, for Python programs that ask for features and predictions: `Client`, and `AsyncClient` for asyncio.

from braid.client import Client

with Client("http://127.0.0.1:3001") as client:
    [row] = client.features("user_features", [17850])
    answer = client.predict({"user_id": 17850})

A request is repeated when the service is busy or not ready (429, 503) or not reachable, until the deadline: after a growing random pause, which
begins after the time that `Retry-After` names. Every request only reads, so a repetition does no harm.
"""

from braid.client.answers import CandidateScore, FeatureRow, FeatureRows, ModelInfo, Prediction, Provenance, Scores
from braid.client.calls import RefusedError, ServingError, UnreachableError
from braid.client.clients import AsyncClient, Client

__all__ = [
    "AsyncClient", "CandidateScore", "Client", "FeatureRow", "FeatureRows", "ModelInfo", "Prediction", "Provenance", "RefusedError",
    "Scores", "ServingError", "UnreachableError",
]  # fmt: skip
