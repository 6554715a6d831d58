"""Sensors: progress of the speed layer (`observation`), freshness and coverage (`health`), and the start of runs (`automation`)."""

import dagster as dg

from orchestration.deployment import Deployment
from orchestration.sensors import automation, health, observation


def sensors_of(deployment: Deployment) -> list[dg.SensorDefinition]:
    """Returns all sensors."""
    return [sensor for module in (observation, health, automation) for sensor in module.sensors_of(deployment)]
