"""A typed client of serving, for Python programs that request features and predictions: `Client`, and `AsyncClient` for asyncio.

from braid.client import Client

with Client("http://127.0.0.1:3001") as client:
    [row] = client.features("user_features", [17850])
    answer = client.predict({"user_id": 17850})

Until the deadline, a request is repeated if the service is busy or not ready (429, 503) or not reachable. Before each repetition the client waits for
the time that `Retry-After` names, if any, and for a random pause, which grows. Requests only read, so repeating them changes nothing.
"""

from braid.client.answers import CandidateScore, FeatureRow, FeatureRows, ModelInfo, Prediction, Provenance, Scores
from braid.client.calls import RefusedError, ServingError, UnreachableError
from braid.client.clients import AsyncClient, Client

__all__ = [
    "AsyncClient", "CandidateScore", "Client", "FeatureRow", "FeatureRows", "ModelInfo", "Prediction", "Provenance", "RefusedError",
    "Scores", "ServingError", "UnreachableError",
]  # fmt: skip
