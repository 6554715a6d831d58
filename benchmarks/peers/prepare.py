"""Prepares the peers before they start: writes a logistic regression by joblib, and Feast's registry and online values.

A program of the peers' environment: `python prepare.py FEATURES MODEL FEAST_FOLDER`. FEATURES is a Parquet file with a row per user: `user_id`,
`event_timestamp` and the features. FEAST_FOLDER has the file `feature_store.yaml`.
"""

import sys
from datetime import timedelta

import joblib
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64
from sklearn.linear_model import LogisticRegression

features_file, model_file, folder = sys.argv[1:]
users = pd.read_parquet(features_file)

inputs = users[["avg_purchase_30d", "purchase_count_7d", "days_since_last"]].to_numpy()
joblib.dump(LogisticRegression().fit(inputs, inputs[:, 1] > users["purchase_count_7d"].median()), model_file)

types = {"int64": Int64, "float64": Float64}
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
fields = [
    Field(name=name, dtype=types[str(kind)]) for name, kind in users.dtypes.items() if name not in ("user_id", "event_timestamp")
]
source = FileSource(path=features_file, timestamp_field="event_timestamp")
store = FeatureStore(repo_path=folder)
store.apply([user, FeatureView(name="user_features", entities=[user], schema=fields, source=source, ttl=timedelta(0))])
store.write_to_online_store("user_features", users)
