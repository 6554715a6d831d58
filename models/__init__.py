"""Models: from the training set to the version that serving uses.

outcomes        the labels of served answers: whether the declared event followed
training_set    labels, with the features of their entities at the time of the label
training        trains a candidate and its twin on batch features; fits a promoted candidate on all rows
evaluation      metrics by objective, and the criteria of the gate
slices          the gate's comparison on parts of the evaluation rows
promotion       the gate between candidate and champion
formats         the stored formats, LightGBM's text and ONNX, and a model in memory
registration    registers a fitted model as a run and a version in MLflow
registry        versions and aliases in MLflow; serving follows the alias `champion`
ranking         the measure of each objective, and the difference between two models
"""

import os

# MLflow reads this variable when it is imported. MLflow's telemetry changes environment variables in a thread; another thread that reads them at
# that moment can fail with a KeyError.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
