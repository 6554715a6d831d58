"""The first stage: which items may be recommended to a user, before the model ranks them.

Reads the events of visits; writes three small Parquet files, which a caller loads into memory (`Candidates`). Candidates come from three
places: items that others viewed within half an hour of what the user has viewed in this session, items that Spark ALS (implicit matrix
factorization) gives the user, and popular items.

`python -m benchmarks.candidate_recall` measures on simulated data how many of the later clicks are among the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

#: Candidates of a request; of these at most so many by the items of the session.
CANDIDATES, BY_SESSION = 500, 200
#: Items per user by ALS, neighbours per item, and the minutes within which two views are seen together.
BY_USER, NEIGHBOURS, TOGETHER_MINUTES = 500, 40, 30
#: The factors, iterations and weight of implicit feedback of ALS.
RANK, ITERATIONS, ALPHA = 16, 5, 20.0


def write_candidates(spark: SparkSession, events: DataFrame, folder: Path) -> None:
    """Writes `items.parquet`, `by_user.parquet` and `together.parquet` to a folder.

    Args:
        spark: The session.
        events: The columns of the source `visits`.
        folder: Is made where it does not exist.
    """
    from pyspark.ml.recommendation import ALS

    folder.mkdir(parents=True, exist_ok=True)
    events = events.select("event_type", "user_id", "item_id", "category", "popularity", F.col("event_timestamp").alias("at"))
    items = events.groupBy("item_id").agg(
        F.first("category").alias("category"), F.max("popularity").cast("double").alias("popularity")
    )
    known: pd.DataFrame = items.orderBy(F.desc("popularity"), "item_id").toPandas().rename_axis("number").reset_index()
    numbers = spark.createDataFrame(known[["number", "item_id"]])
    wanted = events.where("event_type IN ('VIEW', 'CLICK')").join(F.broadcast(numbers), "item_id").cache()
    counts = wanted.groupBy(F.col("user_id").cast("int"), F.col("number").cast("int")).agg(
        F.count("*").cast("float").alias("times")
    )
    als = ALS(
        rank=RANK, maxIter=ITERATIONS, alpha=ALPHA, implicitPrefs=True, userCol="user_id", itemCol="number", ratingCol="times", seed=1
    )  # fmt: skip
    by_user = als.fit(counts).recommendForAllUsers(BY_USER).select("user_id", F.col("recommendations.number").alias("numbers"))
    views = wanted.where("event_type = 'VIEW'").select("user_id", "number", "at")
    others = views.toDF("user_id", "other", "other_at")
    near = F.abs(F.col("at").cast("double") - F.col("other_at").cast("double")) <= TOGETHER_MINUTES * 60
    pairs = views.join(others, "user_id").where(near & (F.col("number") != F.col("other"))).groupBy("number", "other").count()
    each = F.reverse(F.array_sort(F.collect_list(F.struct("count", "other"))))
    together = pairs.groupBy("number").agg(F.slice(each, 1, NEIGHBOURS).getField("other").alias("others"))
    for name, frame in (("items", known), ("by_user", by_user.toPandas()), ("together", together.toPandas())):
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    wanted.unpersist()


class Candidates:
    """The candidates as a caller chooses them, in memory.

    Args:
        folder: What `write_candidates` has written.
    """

    def __init__(self, folder: Path) -> None:
        items = pd.read_parquet(folder / "items.parquet")
        self._items: list[dict[str, Any]] = items[["item_id", "category", "popularity"]].to_dict("records")
        self._number = dict(zip(items["item_id"], items["number"], strict=True))
        by_user, together = (pd.read_parquet(folder / f"{name}.parquet") for name in ("by_user", "together"))
        self._by_user = dict(zip(by_user["user_id"], by_user["numbers"], strict=True))
        self._together = dict(zip(together["number"], together["others"], strict=True))

    def of(self, user_id: int, session: Sequence[str], size: int = CANDIDATES) -> list[dict[str, Any]]:
        """The candidates of a request to `/models/recommendation/score`: item, category and popularity of each.

        Args:
            user_id: The user.
            session: The items that the user has viewed in this session, the latest last.
            size: The largest number of candidates.
        """
        seen = [self._number[item] for item in reversed(session) if item in self._number]
        near = islice(_different(_in_turn([self._together.get(number, ()) for number in seen])), BY_SESSION)
        numbers = islice(_different([*near, *self._by_user.get(user_id, ()), *range(len(self._items))]), size)
        return [self._items[number] for number in numbers]


def _in_turn(lists: Sequence[Sequence[int]]) -> Iterator[int]:
    """The first of each list, then the second of each."""
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))


def _different(numbers: Iterable[int]) -> Iterator[int]:
    return iter(dict.fromkeys(map(int, numbers)))
