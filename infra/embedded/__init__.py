"""The embedded stack: real services on one machine, run by a supervisor per home."""
