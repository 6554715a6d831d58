"""The algebra of features: sources, declarations, aggregations, windows, packed values and the merge. This room does no input or output.

project, sources   what a project declares; `judgement` is the verdict on an event
checks             thresholds for the days of a source and the view of a group
declaration        features and groups, checked and compiled; predicates as SQL in `predicates`, tried by Spark in `trial`
aggregations       the algebra: partials that combine
model, vector      what a model predicts, and its input: from a training row and from a request alike
objective          the kind of a model's prediction, and the data of its training function
expressions        derived features of a model, as SQL over features and columns of the request; for one row and for columns
windows, tiles     the span of time of a feature, and the partials of one entity over one hop
view, packed       the batch view of one entity, and the bytes of views and tiles
merge, finish      the features at a time: of one entity from view and tiles, of many from raw events
arrival, instants  the order in which messages arrived; times as milliseconds
names              what a source, a table or a model may be called
"""
