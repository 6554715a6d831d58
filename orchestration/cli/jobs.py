"""`braid demo` and `braid bench`: the examples, and the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.errors import InputError
from orchestration.cli.console import HomeOption, JsonOption, note, print_json, settings_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def demo(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The example.")] = "shop",
    leave: Annotated[bool, typer.Option("--exit", help="End after the summary. Default: stay up until Ctrl-C.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="File to which the summary is written as JSON.", show_default=False)
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            "--speed", min=1, help="Event time divided by wall time, for the replay. Default: the example's.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Run an example: load its history, train, stream a week, serve, and compare with brute force.

    The state is in the folder `demo` of the home for the example shop, and in `demo_NAME` for another; each run begins with an empty folder.
    """
    from infra.errors import InputError
    from infra.settings import Settings
    from orchestration.demo import Demo, example_of

    example = example_of(name)
    folder = "demo" if name == "shop" else f"demo_{name}"
    settings = Settings.load(settings_of(context, home).home / folder, example.project)
    if settings.kappa:
        raise InputError("The demo shows both layers of Lambda, and BRAID_ARCHITECTURE is kappa.", "Unset BRAID_ARCHITECTURE.")
    summary = Demo(settings, example, speed).run(leave=leave, report=report)
    if as_json:
        print_json(summary)
    if summary["cells_different"]:
        raise typer.Exit(1)


def bench(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Names of benchmarks. Default: all.", show_default=False)] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Run benchmarks, each together with its peer."""
    import json
    import subprocess
    import sys

    settings_of(context, home)
    if not BENCHMARKS.is_dir():
        raise InputError(
            "The benchmarks are not part of the installed package.", "Run `braid bench` in a clone of braid's repository."
        )
    known = sorted(path.stem for path in BENCHMARKS.glob("*.py") if not path.stem.startswith("_"))
    for name in names or known:
        if name not in known:
            raise InputError(f"There is no benchmark {name!r}.", f"The benchmarks are: {', '.join(known)}.")
    figures_by_name = {}
    for name in names or known:
        note(f"{name} …")
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--json"] if as_json else [])]
        done = subprocess.run(command, cwd=BENCHMARKS.parent, stdout=subprocess.PIPE if as_json else None, text=True, check=False)
        if done.returncode:
            note(f"{name} has failed (status {done.returncode}).")
            figures_by_name[name] = {"failed": done.returncode}
        elif as_json:
            figures_by_name[name] = json.loads(done.stdout)
    if as_json:
        print_json(figures_by_name)
