"""Example projects. A deployment that names no project runs `shop`.

Each example is a package with its `definitions`, and with an `example` (`examples.example.Example`) that `braid demo NAME` runs.
"""

#: The examples, in the order of the documentation.
NAMES = ("shop", "fraud", "ads", "moderation", "search", "recommendation")
