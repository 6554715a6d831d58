"""The benchmarks whose figures the README gives, each with its peer in the same run."""
