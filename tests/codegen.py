"""Whether Spark compiles its plans: it makes a class for each stage of a query, which for a few rows is a third of the CPU time of a test."""

from __future__ import annotations

COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}
INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
#: The Java options by which the Spark of any process interprets its plans, and does not plan anew between stages.
INTERPRETING = " ".join(f"-D{name}={value}" for name, value in {**INTERPRETED, "spark.sql.adaptive.enabled": "false"}.items())
