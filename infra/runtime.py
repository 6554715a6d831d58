"""The part of `make setup` that runs in the new environment: finds or installs Java and the JARs. Prints their paths as JSON."""

from __future__ import annotations

import json
import sys

from infra.errors import BraidError
from infra.jars import KAFKA, SPARK, jars
from infra.java import ensure_java
from infra.settings import Settings


def main() -> int:
    """Installs what is missing, and prints each step to stderr. Returns the exit status."""
    try:
        home = ensure_java()
        print(f"    Java: {home}", file=sys.stderr, flush=True)
        paths = [str(home / "bin" / "java")]
        cache = Settings().cache_dir.expanduser().absolute()
        for wanted in (KAFKA, SPARK):
            count = len(jars(wanted, cache))
            folder = wanted.folder(cache)
            print(f"    JARs of {wanted.name}: {count} in {folder}", file=sys.stderr, flush=True)
            paths.append(str(folder))
    except BraidError as error:
        print(f"make setup: {error}", file=sys.stderr)
        return 1
    print(json.dumps(paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
