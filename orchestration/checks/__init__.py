"""The checks of assets: of tables by Great Expectations (`tables`; beside what is normal, `normal`; `suites`), of the online store (`online`), of what was served (`served`)."""

from typing import Any

from orchestration.checks import normal, online, served, tables
from orchestration.deployment import Deployment


def checks_of(deployment: Deployment) -> list[Any]:
    """All checks."""
    return [check for module in (tables, normal, online, served) for check in module.checks_of(deployment)]
