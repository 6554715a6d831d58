"""Purchases of a shop: what users and items did, and whether a user purchases again within a week."""
