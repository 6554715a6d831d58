"""The online store: batch views and speed tiles by entity, in Valkey, Redis or a cluster of either. No other room speaks Redis.

protocol    what the other rooms ask of a store
server      that protocol on Redis or Valkey, with `clients`, `keys` and `scripts`
publishing  a group's batch view → the store; nothing older replaces what is newer
tiles       speed tiles → the store, and since when they are complete
reading     a request's entities → their views and tiles, in one round trip
errors      the reason of each kind of error reply
acl         the users of a server: one who writes, one who reads
"""
