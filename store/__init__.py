"""The online store: batch views and speed tiles by entity, in Valkey, Redis or a cluster of either. No other room speaks Redis.

protocol    the interface that the other rooms use
server      that interface on Redis or Valkey, with `clients`, `keys` and `scripts`
publishing  writes the batch view of a group; an older value never replaces a newer one
tiles       writes speed tiles, and records since when they are complete
copies      remembers the events that the stream has seen
reading     reads the views and tiles of a request's entities in one round trip, with `wire` and `decoded`
errors      the reason of each kind of error reply
acl         the users of a server: a writer and a reader
"""
