"""Serving: one request. Fetch, merge, predict, answer."""
