"""`python -m orchestration.cli` is `braid`."""

from orchestration.cli import main

main()
