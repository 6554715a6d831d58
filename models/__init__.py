"""Models: from the features of the past to the model that answers.

The way through the room: `training_set` (label points, their features then, their `outcomes`) → `training` (a candidate and its
batch-only twin) → `promotion` (the gate) → `registry` (MLflow's aliases, which serving follows). `ranking` measures how well scores rank.
"""
