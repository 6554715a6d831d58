"""Flink as the engine of the tiles.

json_tokens    regular expressions on the text of a message
contract       a message → the verdict and typed columns, in Flink SQL
expressions    the expressions of a declaration, in Flink SQL
job_sql        the job of a source, in Flink SQL
rows           the messages that a job writes → Arrow columns
cluster        lists, starts and cancels the jobs of the cluster
engine         the engine: keeps the jobs running, and passes their contributions to `speed.writer`
"""
