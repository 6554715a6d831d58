"""`python -m examples NAME FOLDER` writes the events of an example's demo into a folder."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Annotated

import typer

from examples import NAMES


def main(
    name: Annotated[str, typer.Argument(help=f"The example: {', '.join(NAMES)}.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
) -> None:
    """Writes the events of an example, so that they end now."""
    if name not in NAMES:
        raise typer.BadParameter(f"There is no example {name!r}; the examples are: {', '.join(NAMES)}.")
    files = importlib.import_module(f"examples.{name}.example").example.write(folder, time.time_ns() // 1_000_000)
    for source, paths in files.items():
        print(f"{source}: {', '.join(map(str, paths))}")


if __name__ == "__main__":
    typer.run(main)
