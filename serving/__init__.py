"""Serving: one request over HTTP.

front        answers the operations, before BentoML's own middleware
request_ids  the id of a request, of its record and of its line in the log
guard        refuses requests without a key, of another type, too large, or outside the contract
contract     the fields of requests and answers
ids          the ids of a request → those of the store
decoding     the bytes of a request → the request
media_types  the media type of an answer, by the request's Accept header
encoding     an answer → its bytes
arrow_answer an answer about features → a stream of Arrow
service      the endpoints, as a BentoML service
predicting   one request to a model → its answer, within the budget
answer       what the store gave → the answer
freshness    whether features are too old for a use case
model        the champion of the registry, loaded and followed
one_row      a LightGBM model's prediction for one row
variants     which model answers whom in an experiment
answer_log   the records of a model's answer
served_log   records of a share of the answers → Kafka
console      a page that shows how an answer comes about
stages       how much of a request's time each part took
tracing      the same as spans of OpenTelemetry, where a collector is named
metrics      counters for `/metrics`
"""
