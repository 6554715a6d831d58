"""Asset checks: of tables (`tables`, `normal`, by Great Expectations in `suites`), of the online store (`online`), of served answers (`served`)."""

from typing import Any

from orchestration.checks import normal, online, served, tables
from orchestration.deployment import Deployment


def checks_of(deployment: Deployment) -> list[Any]:
    """Returns all checks."""
    return [check for module in (tables, normal, online, served) for check in module.checks_of(deployment)]
