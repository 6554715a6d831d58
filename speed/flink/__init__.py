"""Flink as the engine of the tiles.

json_tokens    regular expressions on the text of a message
contract       a message → the verdict and typed columns, in Flink SQL
expressions    the expressions of a declaration, in Flink SQL
job_sql        the job of a source
rows           the messages that a job writes, as Arrow columns
cluster        the jobs of the cluster
engine         the engine: keeps the jobs running, and has their contributions written (`speed.writer`)
"""
