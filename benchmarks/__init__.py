"""The benchmarks whose figures the README cites, each with its peer in the same run."""
