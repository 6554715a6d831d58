"""A shop: features of users and items, and a model of whether a user purchases again within a week."""
