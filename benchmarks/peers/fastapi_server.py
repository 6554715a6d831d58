"""The peer that many tutorials show: FastAPI, three HGETs of finished values, a logistic regression.

A program of the peers' environment: `python fastapi_server.py PORT STORE_URL MODEL`. Like the servers of these tutorials, it calls the store with a
blocking client, reads a model by joblib, and checks request and response by pydantic.
"""

import sys

import joblib
import numpy as np
import redis
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

port, url, model_file = sys.argv[1:]
app = FastAPI()
redis_client = redis.Redis.from_url(url)
model = joblib.load(model_file)


class PredictionRequest(BaseModel):
    """A user, and the context of the request."""

    user_id: int
    context: dict


class PredictionResponse(BaseModel):
    """A prediction, and the features from which it was computed."""

    user_id: int
    prediction: float
    features_used: dict[str, float]


@app.post("/predict", response_model=PredictionResponse)
async def predict(request: PredictionRequest):  # noqa: ANN201  # the response model is the type
    """Answers with a prediction about a user."""
    features = fetch_features(request.user_id)
    feature_vector = np.array(list(features.values()))
    prediction = model.predict_proba(feature_vector.reshape(1, -1))[0][1]
    return PredictionResponse(user_id=request.user_id, prediction=prediction, features_used=features)


def fetch_features(user_id: int) -> dict[str, float]:
    """Returns the features of a user."""
    pipe = redis_client.pipeline()
    feature_names = ["avg_purchase_30d", "purchase_count_7d", "days_since_last"]
    for name in feature_names:
        pipe.hget(f"user_features:{user_id}", name)
    values = pipe.execute()
    return {name: float(v) if v else 0.0 for name, v in zip(feature_names, values, strict=True)}


uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)
