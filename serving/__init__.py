"""Serving: answers one request over HTTP.

front           answers the requests of the project's operations, before BentoML's own middleware
request_ids     assigns each request an id, which is in its response, its record in the served log, and its line in the error log
guard           refuses requests without a key, with another content type, with a large body, or outside the contract
bodies          decodes the content encoding of a body
contract        the fields of requests and answers
decoding        the bytes of a request → the request
ids             the ids in a request → the ids in the store
media_types     the media type of an answer, by the request's Accept header
encoding        an answer → its bytes
arrow_answer    an answer about features → a stream of Arrow
errors          HTTP error responses
service         the endpoints, as a BentoML service
predicting      a request to a model → its answer, within the budget
answer          a reading of the store → the answer
freshness       whether features are too old for a use case
model           loads the champion of the registry and follows its alias
one_row         a LightGBM model's prediction for one row
variants        which model answers about which entity in an experiment
answer_log      the records of a model's answer
served_log      sends the records of a share of the answers to Kafka
console         a page that shows how an answer comes about
stages          the time of each stage of a request
tracing         the stages as spans of OpenTelemetry, if a collector is configured
metrics         the Prometheus metrics at `/metrics`
request_counts  BentoML's counts of requests, for the requests that `front` answers
http_protocol   sends the head and the body of an answer in one system call
"""
