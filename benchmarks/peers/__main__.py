"""Makes the environment of the peers, and prints the path of its Python."""

from __future__ import annotations

from benchmarks.peers.environment import peers_python
from infra.settings import Settings

print(peers_python(Settings.load()))
