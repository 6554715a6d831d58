"""Example projects. A deployment that names no project runs `shop`.

Each example is a package with its `definitions` and an `example` (`examples.example.Example`), from which `braid demo NAME` runs it.
"""

#: The examples, in the order of the documentation.
NAMES = ("shop", "fraud", "ads", "moderation", "search", "recommendation")
