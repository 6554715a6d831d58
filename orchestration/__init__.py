"""Orchestration: Dagster's definitions, and the command line.

assets, checks, jobs, sensors   made for each source, group and model of a project; `definitions` joins them, `names` names them
backfill, execution             the same jobs, run from the command line
cli, progress                   the command `braid`, and what it shows of long work
plan, reload                    a changed declaration: what it costs, and the restart of what has loaded the older one
proof                           a brute-force computation compared with answers over HTTP
demo                            the example shop through the whole platform
"""
