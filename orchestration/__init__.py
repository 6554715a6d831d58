"""Orchestration: Dagster's definitions, and the command line.

assets, checks, jobs, sensors   made for each source, group and model of a project; `definitions` joins them, `names` has their names
backfill, execution             the jobs, run from the command line
cli, progress                   the command `braid`, and the progress of long work
plan, reload                    a changed declaration: the cost of its backfill, and the restart of services with the older declaration
forget                          erasure of an entity from every place
proof                           a brute-force computation compared with answers over HTTP
demo                            the example shop through the whole platform
"""
