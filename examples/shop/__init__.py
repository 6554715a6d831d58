"""The shop example: features of users and items from purchase events, and a model of whether a user purchases again in a week."""
