"""Serving: one request. `service` (HTTP) → `store` (one read) → `merge` (features at q) → `model` (champion) → `contract` (answer)."""
