"""A card issuer: features of cards and terminals, for a model of whether a transaction is fraud."""
