"""Serving: one request over HTTP.

guard        refuses requests without a key, of another type, too large, or outside the contract
contract     the fields of requests and answers
encoding     an answer → its bytes
service      the endpoints, as a BentoML service
predicting   one request to a model → its answer, within the budget
answer       what the store gave → the answer
freshness    whether features are too old for a use case
model        the champion of the registry, loaded and followed
variants     which model answers whom in an experiment
served_log   a share of the answers → Kafka
console      a page that shows how an answer comes about
metrics      counters for `/metrics`
"""
