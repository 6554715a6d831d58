"""Runs the command `braid` by `python -m orchestration.cli`."""

from orchestration.cli import main

main()
