"""The benchmarks behind the README's figures. Each measures braid and a peer in the same run."""
