"""The first stage: chooses the items that may be recommended to a user, before the model ranks them.

Reads the events of visits; writes three small Parquet files, which a caller loads into memory (`Candidates`). The asset `visit_candidates` of
`examples.recommendation.assets` writes them. Candidates have three origins: items that users viewed within half an hour of the items of this session,
items that Spark ALS (implicit matrix factorization) recommends to the user, and popular items.

`python -m benchmarks.candidate_recall` measures on simulated data how many of the later clicks are among the candidates.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from examples.simulation import MINUTE_MS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: The folder of the three files, in the home of the deployment.
FOLDER = "candidates"
#: The number of candidates of a request; the largest numbers of those by the items of the session, and by ALS. The rest are popular items.
CANDIDATES, BY_SESSION, BY_USER = 500, 200, 150
#: The largest number of neighbours of an item, and the minutes within which two views count as seen together.
NEIGHBOURS, TOGETHER_MINUTES = 40, 30
#: The factors, iterations and weight of implicit feedback of ALS.
RANK, ITERATIONS, ALPHA = 32, 5, 5.0


def write_candidates(spark: SparkSession, events: DataFrame, folder: Path) -> dict[str, int]:
    """Writes `items.parquet`, `by_user.parquet` and `together.parquet` to a folder. Each file is replaced atomically.

    Args:
        spark: The session.
        events: Events with the columns of the source `visits`.
        folder: The folder; it is created if it does not exist.

    Returns:
        The numbers of rows: items, users with items by ALS, and items that were seen together with others.
    """
    from pyspark.ml.recommendation import ALS
    from pyspark.sql import functions as F

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
    by_user = als.fit(counts).recommendForAllUsers(BY_USER).select("user_id", F.col("recommendations.number").alias("items"))
    views = wanted.where("event_type = 'VIEW'").select("user_id", "number", "at")
    others = views.toDF("user_id", "other", "other_at")
    near = F.abs(F.col("at").cast("double") - F.col("other_at").cast("double")) <= TOGETHER_MINUTES * 60
    pairs = views.join(others, "user_id").where(near & (F.col("number") != F.col("other"))).groupBy("number", "other").count()
    each = F.reverse(F.array_sort(F.collect_list(F.struct("count", "other"))))
    together = pairs.groupBy("number").agg(F.slice(each, 1, NEIGHBOURS).getField("other").alias("items"))
    ids = known["item_id"].to_numpy()
    of_users, of_items = by_user.toPandas(), together.toPandas()
    wanted.unpersist()
    files = {
        "items": known[["item_id", "category", "popularity"]],
        "by_user": of_users.assign(items=[ids[numbers] for numbers in of_users["items"]]),
        "together": pd.DataFrame({"item_id": ids[of_items["number"]], "items": [ids[numbers] for numbers in of_items["items"]]}),
    }
    for name, frame in files.items():
        frame.to_parquet(folder / f"{name}.new", index=False)
        (folder / f"{name}.new").replace(folder / f"{name}.parquet")
    return {name: len(frame) for name, frame in files.items()}


class Candidates:
    """Chooses candidates from the files of `write_candidates`, which it loads into memory.

    Args:
        folder: The folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        items, by_user, together = (pd.read_parquet(folder / f"{name}.parquet") for name in ("items", "by_user", "together"))
        self._items: dict[str, dict[str, Any]] = {item["item_id"]: item for item in items.to_dict("records")}
        self._by_user = dict(zip(by_user["user_id"], by_user["items"], strict=True))
        self._together = dict(zip(together["item_id"], together["items"], strict=True))

    def of(self, user_id: int, session: Sequence[str], size: int = CANDIDATES) -> list[dict[str, Any]]:
        """Returns the candidates of a request to `/models/recommendation/score`: item, category and popularity of each.

        Args:
            user_id: The user.
            session: The items that the user has viewed in this session, the latest last.
            size: The largest number of candidates.
        """
        near = islice(dict.fromkeys(_in_turn([self._together.get(item, ()) for item in reversed(session)])), BY_SESSION)
        ranked = dict.fromkeys([*near, *self._by_user.get(user_id, ()), *self._items])
        return list(islice((self._items[item] for item in ranked if item in self._items), size))


class Sessions:
    """The items that each user viewed within `TOGETHER_MINUTES` before an instant.

    Args:
        visits: Events with the columns `event_type`, `user_id`, `item_id` and `event_timestamp`, a time in UTC.
    """

    def __init__(self, visits: pd.DataFrame) -> None:
        views = visits[visits["event_type"] == "VIEW"].sort_values("event_timestamp")
        at_ms = views["event_timestamp"].dt.tz_convert(None).to_numpy("datetime64[ms]").astype(np.int64)
        self._views = {
            user: (part["at_ms"].tolist(), part["item_id"].tolist()) for user, part in views.assign(at_ms=at_ms).groupby("user_id")
        }

    def of(self, user_id: int, at_ms: int) -> list[str]:
        """Returns the items of a user's session at an instant, the latest last."""
        times_ms, items = self._views.get(user_id, ((), ()))
        return list(items[bisect_left(times_ms, at_ms - TOGETHER_MINUTES * MINUTE_MS) : bisect_left(times_ms, at_ms)])


class FirstStage:
    """Chooses the candidates of the demo's requests.

    Args:
        home: The home of the deployment, in which the asset `visit_candidates` has written its files.
        events: The Parquet file of the events that the demo streams.
    """

    def __init__(self, home: Path, events: Path) -> None:
        self._candidates = Candidates(home / FOLDER)
        self._sessions = Sessions(pd.read_parquet(events, columns=["event_type", "user_id", "item_id", "event_timestamp"]))

    def candidates(self, request: Mapping[str, Any], at_ms: int) -> list[dict[str, Any]]:
        """Returns the candidates of a request for a prediction, as of an instant in ms since 1970."""
        return self._candidates.of(request["user_id"], self._sessions.of(request["user_id"], at_ms))


def _in_turn(lists: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields the first entry of each list, then the second of each, and so on."""
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))
