"""The batch layer: Delta from events to the online store.

The way through the room: `files` (anyone's file) → `load` / `events` (deduplicated events) → `tiles` (partials per hop and day)
→ `view` (everything before batch_end, per entity; what lies before its windows from `history`) → `publish` (online store).
`point_in_time` gives what features were at past instants. `tables` is how all of them meet Delta and each other.
"""
