"""Models: from the training set to the version that answers.

outcomes        the label: whether the declared event followed
training_set    labels, with the features of their entities at the time of the label
training        a candidate, and its twin on batch features
promotion       the gate between candidate and champion
registry        versions and aliases in MLflow; serving follows the alias `champion`
ranking         the AUC of scores, and the difference between two models
"""
