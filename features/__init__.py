"""The algebra of features: sources, declarations, aggregations, windows, packed values and the merge. This room does no input or output.

project, sources   the declarations of a project and of its kinds of events; `judgement` checks an event against its source
checks             thresholds for the days of a source and the view of a group
declaration        features and groups, checked and compiled; `predicates` checks their SQL conditions, `trial` evaluates them in Spark
aggregations       the aggregations, as monoids over partials
model, vector      the outcome that a model predicts, and the input of the model, computed from a training row or from a request
objective          the kind of a model's prediction, and the data of its training function
expressions        derived features of a model: SQL over features and request columns, evaluated for one row or for columns
windows, tiles     the span of time of a feature, and the partials of one entity over one step of time
view, packed       the batch view of one entity, and the bytes of views and tiles
history            in Kappa, the partials of all events of one entity before an instant
speed_value        the bytes of all speed tiles of one entity; `open_tile` adds events to a tile, `speed_tiles` decodes the value for a merge
merge, finish      the features at a time: `merge` and `merge_many` from views and tiles, `finish` from raw events
arrival, instants  the order in which messages arrived; times as milliseconds
names              the valid names of sources, tables, groups, features and models
"""
