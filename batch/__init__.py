"""The batch layer: from files and the archive to Delta tables.

files, load      a file → judged rows → `events`; rows that do not fit → `quarantine`
csv_rows, times  how files are read: `json_messages`, `spool` and `quoted` as well
events           the raw archive → `events`; duplicates fall by event id
tiles, history   `events` → partials by entity and hop; one snapshot of each entity's history
view             tiles → everything before batch_end, per entity
publish          the view → the online store
point_in_time    `events` → the features of entities at past times
tables, partials what these modules share: Delta's log and conflicts, Arrow columns of partials
"""
