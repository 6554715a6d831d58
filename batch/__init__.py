"""The batch layer: from files and the archive to Delta tables.

files, load      a file → judged rows → `events`, or `quarantine` for rows that do not fit
labels           a file of labels → their table, with the label that was loaded last
csv_rows, times  the readers of files, with `json_messages`, `file_contents`, `spool` and `quoted`
events           the raw archive → `events`, each event id once
tiles, history   `events` → partials by entity and hop; a snapshot of each entity's history
view             tiles → everything before batch_end, per entity
publish          the view → the online store
point_in_time    `events` → the features of entities at past times
erasure          deletes an entity from every table
housekeeping     deletes tables, checkpoints and files that are not used any more
copies           decides which of the copies of an event count
tables, partials shared by these modules: Delta's log and conflicts, Arrow columns of partials
"""
