"""Real impressions of ads: a sample of the Open Bandit Dataset in the wheel of the package `obp` (10,000 impressions of a week, 38 were clicked).

Reads the wheel without installing it. Writes events of `definitions.ad_events`, and labels. The sample has no users: people with the same four hashed
attributes count as one user. A click has no time in the sample, so its time is one second after its impression.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd

from examples.ads.impressions import Report
from examples.simulation import SECOND_MS, rfc3339

#: The requirement for `pip download --require-hashes`.
REQUIREMENT = "obp==0.4.1 --hash=sha256:87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208"
_MEMBER = "obp/dataset/obd/random/all/all.csv"
_ATTRIBUTES = [f"user_feature_{number}" for number in range(4)]


def write(wheel: Path, folder: Path) -> Report:
    """Writes the events and the labels to a folder, each ordered by time.

    Args:
        wheel: The wheel that pip has downloaded for `REQUIREMENT`.
        folder: An existing folder.
    """
    with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as file:
        rows = pd.read_csv(file, index_col=0)
    rows["at_ms"] = pd.to_datetime(rows["timestamp"], format="ISO8601").dt.as_unit("ms").astype("int64")
    rows = rows.sort_values("at_ms", kind="stable")
    shown = pd.DataFrame({
        "event_id": [f"shown-{number}" for number in rows.index], "event_type": "IMPRESSION", "impression_id": rows.index.astype(str),
        "user_id": rows.groupby(_ATTRIBUTES).ngroup(), "ad_id": "item" + rows["item_id"].astype(str), "slot_id": "position" + rows["position"].astype(str),
        "page": rows["user_feature_0"].str[:8], "at_ms": rows["at_ms"],
    })  # fmt: skip
    clicked = shown[rows["click"] == 1]
    clicks = clicked.assign(
        event_id=[f"clicked-{number}" for number in clicked.index], event_type="CLICK", at_ms=clicked["at_ms"] + SECOND_MS
    )
    events = pd.concat([shown, clicks]).sort_values("at_ms", kind="stable")
    labels = shown.drop(columns=["event_id", "event_type"]).assign(label=rows["click"], scenario=0)
    report = Report(folder / "real_ad_events.csv", folder / "real_labels.csv", len(shown), len(clicks))
    for path, frame, name in ((report.ad_events, events, "event_timestamp"), (report.labels, labels, "time")):
        frame.drop(columns="at_ms").assign(**{name: rfc3339(frame["at_ms"].to_numpy())}).to_csv(path, index=False)
    return report
