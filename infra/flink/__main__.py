"""Makes the environment of Flink, and prints the folder of its distribution: `python -m infra.flink`."""

from __future__ import annotations

import sys

from infra.errors import BraidError
from infra.flink.distribution import distribution
from infra.settings import Settings

if __name__ == "__main__":
    try:
        print(distribution(Settings.load()))
    except BraidError as error:
        sys.exit(str(error))
