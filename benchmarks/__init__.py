"""The figures of the README, each beside its peer in the same run."""
