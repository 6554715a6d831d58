"""The share of later clicks that are among the candidates of the recommendation example, by where the candidates come from.

    python -m benchmarks.candidate_recall [--json]

Reads simulated visits: those before the last 7 days give the candidates, the clicks of the last 7 days are counted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from pyspark.sql import functions as F

from examples.recommendation.candidates import TOGETHER_MINUTES, Candidates, write_candidates
from examples.recommendation.visits import generate
from infra.settings import Settings
from infra.spark import spark_session

DAYS = 7
#: The numbers of candidates; the simulation has 300 items.
SIZES = (30, 100)


def recall(folder: Path, events: pd.DataFrame, since: pd.Timestamp, sizes: Sequence[int]) -> pd.DataFrame:
    """The share of later clicks whose item is among the candidates of its user: a row per way of choosing, a column per size.

    Args:
        folder: What `write_candidates` has written from the events before `since`.
        events: All events; the column `at` has their times.
        since: The clicks from this time on are counted.
        sizes: Numbers of candidates.
    """
    candidates = Candidates(folder)
    clicks, views = events[(events["event_type"] == "CLICK") & (events["at"] >= since)], events[events["event_type"] == "VIEW"]
    views_of = dict(iter(views.sort_values("at").groupby("user_id")))
    hits: dict[str, dict[int, int]] = {name: dict.fromkeys(sizes, 0) for name in ("popularity", "ALS", "ALS and session")}
    for click in clicks.itertuples():
        own = views_of.get(click.user_id, views.head(0))
        begin = click.at - pd.Timedelta(minutes=TOGETHER_MINUTES)
        session = own[own["at"].between(begin, click.at)]["item_id"].tolist()
        for name, user, seen in (("popularity", -1, []), ("ALS", click.user_id, []), ("ALS and session", click.user_id, session)):
            ranked = [item["item_id"] for item in candidates.of(user, seen, max(sizes))]
            for size in sizes:
                hits[name][size] += click.item_id in ranked[:size]
    return pd.DataFrame(hits).T / len(clicks)


def main(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory(prefix="braid-bench-") as name:
        folder = Path(name)
        path = generate(folder).visits
        settings = Settings.load(str(folder / "home"))
        spark = spark_session(settings, "candidate recall", settings.batch_memory)
        events = pd.read_csv(path)
        events["at"] = pd.to_datetime(events["event_timestamp"], utc=True)
        since = events["at"].max().floor("D") - pd.Timedelta(days=DAYS)
        earlier = spark.read.csv(str(path), header=True, inferSchema=True).where(
            F.col("event_timestamp") < F.lit(since.to_pydatetime())
        )
        began = time.monotonic()
        write_candidates(spark, earlier, folder)
        print(f"candidates written in {time.monotonic() - began:.0f} s", file=sys.stderr)
        table = recall(folder, events, since, SIZES).round(3)
        print(table.to_json(orient="index") if as_json else table.to_string())
        spark.stop()


if __name__ == "__main__":
    typer.run(main)
