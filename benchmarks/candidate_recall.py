"""The share of later clicks that are among the candidates of the recommendation example, by the origin of the candidates.

    python -m benchmarks.candidate_recall [--json]

Simulates visits. The candidates are chosen from the visits before the last 7 days, and the clicks of the last 7 days are counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from pyspark.sql import functions as F

from examples.recommendation.candidates import Candidates, Sessions, write_candidates
from examples.recommendation.visits import ITEMS, generate
from infra.settings import Settings
from infra.spark import spark_session

DAYS = 7
#: The numbers of candidates for which the share is measured.
SIZES = (100, 500)


def recall(folder: Path, events: pd.DataFrame, since: pd.Timestamp, sizes: Sequence[int]) -> pd.DataFrame:
    """Returns the share of later clicks whose item is among the candidates of its user: a row per way of choosing, a column per size.

    Args:
        folder: The folder to which `write_candidates` has written candidates from the events before `since`.
        events: All events.
        since: The time from which clicks are counted.
        sizes: Numbers of candidates.
    """
    candidates, sessions = Candidates(folder), Sessions(events)
    clicks = events[(events["event_type"] == "CLICK") & (events["event_timestamp"] >= since)]
    hits: dict[str, dict[int, int]] = {name: dict.fromkeys(sizes, 0) for name in ("popularity", "ALS", "ALS and session")}
    for click in clicks.itertuples():
        session = sessions.of(click.user_id, int(click.event_timestamp.timestamp() * 1_000))
        for name, user, seen in (("popularity", -1, []), ("ALS", click.user_id, []), ("ALS and session", click.user_id, session)):
            ranked = [item["item_id"] for item in candidates.of(user, seen, max(sizes))]
            for size in sizes:
                hits[name][size] += click.item_id in ranked[:size]
    return pd.DataFrame(hits).T / len(clicks)


def main(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Measures and prints the shares as a table."""
    with tempfile.TemporaryDirectory(prefix="braid-bench-") as name:
        folder = Path(name)
        path = generate(folder).visits
        settings = Settings.load(str(folder / "home"))
        spark = spark_session(settings, "candidate recall", settings.batch_memory)
        events = pd.read_csv(path, parse_dates=["event_timestamp"])
        since = events["event_timestamp"].max().floor("D") - pd.Timedelta(days=DAYS)
        earlier = spark.read.csv(str(path), header=True, inferSchema=True).where(
            F.col("event_timestamp") < F.lit(since.to_pydatetime())
        )
        began = time.monotonic()
        write_candidates(spark, earlier, folder)
        seconds = round(time.monotonic() - began, 1)
        table = recall(folder, events, since, SIZES).round(3)
        spark.stop()
    if as_json:
        print(json.dumps({"items": ITEMS, "seconds": seconds, "recall": json.loads(table.to_json(orient="index"))}))
        return
    print(f"{ITEMS:,} items; candidates written in {seconds} s", file=sys.stderr)
    print(table.to_string())


if __name__ == "__main__":
    typer.run(main)
