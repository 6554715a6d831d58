"""The online store: one hash per entity, which the batch and speed layers write and each request reads."""
