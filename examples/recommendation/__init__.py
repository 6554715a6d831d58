"""A shop's recommendations: counters of items and of a user's tastes, for a model that ranks items for a user."""
