"""Orchestration: Dagster's definitions, and the command line.

assets, checks, jobs, sensors   made for each source, group and model of a project; `definitions` joins them, `names` has their names
backfill, execution             the jobs, run from the command line
catch_up, rebuild, due          waits for the stream, new histories in Kappa, and the time of the next batch
cli, progress                   the command `braid`, and the progress of long work
plan, reload                    a changed declaration: the cost of its backfill, and the restart of services that have the older declaration
forget                          erasure of an entity from every place
proof                           answers over HTTP compared with a brute-force computation
compare                         the same events through deployments of each architecture and engine
demo                            an example through the whole platform
"""
