"""Asset checks: of tables by Great Expectations (`tables`, `suites`), of the online store (`online`), of served answers (`served`)."""

from typing import Any

from orchestration.checks import online, served, tables
from orchestration.deployment import Deployment


def checks_of(deployment: Deployment) -> list[Any]:
    """All checks."""
    return [check for module in (tables, online, served) for check in module.checks_of(deployment)]
