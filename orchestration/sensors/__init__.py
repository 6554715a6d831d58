"""What Dagster looks at by itself: the speed layer (`observation`), freshness and coverage (`health`), and when to run (`automation`)."""

import dagster as dg

from orchestration.sensors.automation import batch_when_due, late_events_heal, lost_store_heals, retraining_on_signal
from orchestration.sensors.health import group_health
from orchestration.sensors.observation import speed_layer

sensors: list[dg.SensorDefinition] = [
    speed_layer,
    group_health,
    batch_when_due,
    late_events_heal,
    lost_store_heals,
    retraining_on_signal,
]
