"""Models: from the training set to the version that answers.

outcomes        the label: whether the declared event followed
training_set    labels, with the features of their entities at the time of the label
training        a candidate, and its twin on batch features; the fit on all rows
evaluation      metrics by objective, and the criteria of the gate
slices          the parts of the evaluation rows on which the gate compares, too
promotion       the gate between candidate and champion
formats         LightGBM's text and ONNX: what is stored of a fitted model, and a model in memory
registration    a fitted model as a run and a version in MLflow
registry        versions and aliases in MLflow; serving follows the alias `champion`
ranking         the measure of each objective, and the difference between two models
"""

import os

# MLflow reads it when it is imported. Its telemetry changes environment variables in a thread, and who reads them at that moment fails (KeyError).
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
