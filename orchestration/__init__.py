"""Orchestration: Dagster runs the layers, the command line runs Dagster.

`definitions` (what Dagster loads) ← `assets/`, `checks`, `jobs`, `sensors`; `backfill` (one run over days) ← `cli` ← people;
`journey` and `demo` (the main job), `proof` (brute force against HTTP).
"""
