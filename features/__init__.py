"""What a feature is: events, declarations, aggregations, windows, tiles, the packed value. No I/O, no Spark session.

The way through the room: `definitions` (what a user writes) → `declaration` (checked and compiled: inputs, windows,
fingerprint) → `aggregations` (the algebra of partials) → `tiles` and `view` (partials by time) → `packed` (bytes)
→ `merge` (values at q). `arrival` says which copy of an event counts; `trial` has Spark evaluate a group's expressions once.
"""
