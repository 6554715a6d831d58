"""The summary of a demo, as the panel that is shown at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.table import Table

from examples.example import Example
from monitoring.attribution import Reason


def summary_panel(summary: Mapping[str, Any], seconds: Mapping[str, float], example: Example, home: Path) -> Panel:
    """Returns the panel with the summary of a demo.

    Args:
        summary: The figures of the demo, as `braid demo --json` prints them.
        seconds: Step → its seconds.
        example: The example.
        home: The home of the demo.
    """
    table = Table.grid(padding=(0, 2))
    steps = {name: taken for name, taken in seconds.items() if not name.startswith("asset ")}
    table.add_row("ran", " · ".join(f"{name} {taken:.0f} s" for name, taken in steps.items()))
    table.add_row("total", f"{summary['seconds_total']:.0f} s, at most {summary['peak_rss_mb']:,} MiB in all processes")
    table.add_row("events", f"{summary['events_loaded']:,} loaded, {summary['events_replayed']:,} streamed")
    for title, text in (*_proofs(summary), *_gain(summary), *_answers(summary), *_answer(summary)):
        table.add_row(title, text)
    for name, url in summary["urls"].items():
        table.add_row(name, url)
    table.add_row("by hand", f"braid --home {home} status")
    return Panel(table, title=f"braid demo {example.name}", subtitle=example.origin, expand=False)


def _proofs(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for proof in summary["proofs"]:
        colour = "red" if proof["different"] else "green"
        cells = f"{proof['cells']:,} cells of {proof['entities']} {proof['entity']}s as of {proof['as_of']}"
        yield "proof", f"[{colour}]{cells}: {proof['different']} differ from brute force[/{colour}]"


def _gain(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    gain = summary["gain"]
    scores = f"AUC {gain['auc']['merged']:.4f} merged, {gain['auc']['batch_only']:.4f} batch only"
    yield "model", f"champion version {summary['champion_version']}: {scores} on {gain['rows']:,} later rows"
    if (difference := gain["auc_difference"]) is not None:
        interval = f"95 % interval {difference['low']:+.4f} to {difference['high']:+.4f}"
        precision = gain["average_precision"]
        yield (
            "gain",
            f"AUC {difference['value']:+.4f} by fresh features ({interval}); average precision {precision['batch_only']:.3f} → {precision['merged']:.3f}",
        )


def _answers(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, title, what in (("predict", "predictions", "answers"), ("score", "scores", "scores")):
        if not summary[title] and not summary.get(f"{title}_failed"):
            continue
        within = summary.get(f"{kind}_within_budget")
        latency = f"p50 {summary[f'{kind}_p50_ms']} ms, p99 {summary[f'{kind}_p99_ms']} ms, p99.9 {summary[f'{kind}_p999_ms']} ms"
        latency += "" if within is None else f", {within:.2%} within the budget"
        degraded = f"{summary[f'{title}_degraded']:,} marked degraded while the batch was late"
        rate = f"{summary[f'{kind}_per_second']:g} a second"
        failed = f"{summary[f'{title}_failed']} failed"
        if times := summary[f"{title}_saturated"]:
            failed += f"; serving did not keep up with the rate, so the clients gave up {times} times"
        yield what, f"{summary[title]:,} {title} during the replay, {rate}: {latency}, {degraded}, {failed}"
    if summary["worker"]:
        yield "worker", ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in summary["worker"].items())
    for name, figures in summary["consistency"].items():
        if figures["cells"]:
            different = sum(figures[str(reason)] for reason in Reason)
            text = f"{figures['cells']:,} logged cells of {name} recomputed: {different:,} differ, {figures['defects']} of them without a reason"
            yield "served", text
    if summary["experiment"]:
        yield "experiment", summary["experiment"]


def _answer(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    answer = summary["answer"]
    features, model, provenance = answer["features_used"], answer["model"], answer["provenance"]
    fields = {"prediction", "features_used", "model", "provenance", "inputs"}
    about = ", ".join(f"{key} {value}" for key, value in answer.items() if key not in fields)
    yield "example", f"{about}: {answer['prediction']:.3f} by {model['name']} {model['version']}"
    yield "", ", ".join(f"{name} {value:g}" for name, value in features.items())
    times = f"batch_end {provenance['batch_end']}, newest event {provenance['newest_event']}"
    yield "", f"{times}, {provenance['tiles_merged']} speed tiles merged"
