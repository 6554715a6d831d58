"""The ads project on real impressions: they load, and its training set has the features that hand-written SQL gives for each of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from batch.load import load_events
from benchmarks._label_points import label_points
from examples.ads import real_impressions
from examples.ads.definitions import ad_events, ads
from features.windows import DAY_MS
from infra.settings import Settings
from models.training_set import build_training_set

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: The impressions are downloaded.
pytestmark = pytest.mark.long


def test_the_training_set_of_real_impressions_is_that_of_hand_written_sql(
    spark: SparkSession, lake: Settings, tmp_path: Path
) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(real_impressions.REQUIREMENT)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet", "--dest", str(tmp_path)]
    subprocess.run([*pip, "-r", str(requirements)], check=True, timeout=300)
    [wheel] = tmp_path.glob("obp-*.whl")
    report = real_impressions.write(wheel, tmp_path)
    points = label_points(ads, {"ad_events": report.ad_events}, report.labels)
    assert (len(points), int(points["label"].sum())) == (10_000, 38)

    loaded = load_events(spark, lake, ad_events, report.ad_events)
    assert (loaded.loaded, loaded.quarantined, loaded.duplicates) == (10_038, 0, 0)
    built = build_training_set(spark, lake, ads, int(points["q_ms"].max()) + DAY_MS)
    assert built.rows == len(points)
    rows = spark.read.format("delta").load(lake.table(ads.training_table)).toPandas().rename(columns={"entity": "user_id"})
    assert rows["label"].astype(int).sum() == 38
    keys = ["q_ms", "user_id", "ad_id", "slot_id"]
    ours, theirs = (frame.sort_values(keys, kind="stable").reset_index(drop=True) for frame in (rows, points))
    assert (ours[keys] == theirs[keys]).all().all()
    compared = 0
    for entry in ads.vector.inputs:
        for name in entry.group.feature_names:
            for column in (f"{entry.prefix}{name}", f"batch_{entry.prefix}{name}"):
                np.testing.assert_allclose(ours[column].astype(float), theirs[column].astype(float), err_msg=column)
                compared += int((theirs[column] > 0).sum())
    assert compared > 100_000
