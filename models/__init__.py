"""The life of a model, from the features of the past to the version that answers.

outcomes        whether an event of some kind followed
training_set    labels, with the features of their entities at that time
training        a candidate, and its twin on batch features alone
promotion       the gate between candidate and champion
registry        versions and aliases in MLflow; serving follows the alias `champion`
ranking         how well scores rank, and whether two models differ
"""
