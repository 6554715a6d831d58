"""Asset checks of tables (`tables` and `normal`, by Great Expectations in `suites`), the online store (`online`) and served answers (`served`)."""

from typing import Any

from orchestration.checks import normal, online, served, tables
from orchestration.deployment import Deployment


def checks_of(deployment: Deployment) -> list[Any]:
    """Returns all checks."""
    return [check for module in (tables, normal, online, served) for check in module.checks_of(deployment)]
