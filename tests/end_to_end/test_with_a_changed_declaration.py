"""A declaration is changed while everything runs: the older version is served and streamed on until the newer one has been backfilled."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from features.declaration import count
from orchestration.proof import prove
from store.server import open_store
from tests.declarations import user_features
from tests.waiting import eventually

if TYPE_CHECKING:
    from .conftest import Shop

MINUTE_MS, DAY_MS = 60_000, 86_400_000
_OLD_LINE = """        count("purchase_count_7d", where="event_type = 'PURCHASE'", window="7d", description="Purchases."),\n"""
_NEW_LINES = """        count("purchase_count_7d", where="event_type = 'PURCHASE'", window="14d"),
        count("views_1d", where="event_type = 'VIEW'", window="1d"),\n"""
NEW = replace(
    user_features,
    features=(
        *user_features.features[:3], count("purchase_count_7d", where="event_type = 'PURCHASE'", window="14d"),
        count("views_1d", where="event_type = 'VIEW'", window="1d"), *user_features.features[4:],
    ),
)  # fmt: skip


def ask(shop: Shop, path: str, **body: Any) -> Any:
    return httpx.post(f"{shop.settings.serving_url}{path}", json=body, timeout=30).json()


def test_the_older_version_is_served_and_streamed_until_the_newer_one_is_backfilled(shop: Shop) -> None:
    settings, events = shop.settings, [shop.raw, *shop.settings.home.glob("late.parquet")]
    definitions = shop.project / "shop" / "definitions.py"
    assert all(group["settled"] for group in shop.braid("plan")["groups"])
    text = definitions.read_text()
    assert _OLD_LINE in text
    definitions.write_text(text.replace(_OLD_LINE, _NEW_LINES))

    planned, unchanged = shop.braid("plan")["groups"]
    assert unchanged["settled"]
    assert (planned["served"], planned["declared"]) == (user_features.fingerprint, NEW.fingerprint)
    assert planned["change"] == {
        "added": ["views_1d"],
        "removed": [],
        "altered": [["purchase_count_7d", "window 7d → 14d, hop 1h → 1d"]],
    }
    assert planned["not_known_to_model"] == ["purchase_count_7d"]
    assert planned["days"] > 60

    shop.braid("up", "--detach")
    at = shop.cut_ms + DAY_MS + 5 * MINUTE_MS + 1
    report = prove(settings, user_features, events, shop.users, at)
    assert (report.differences, report.degraded) == ([], 0)
    assert ask(shop, "/predict", user_id=7, at=at)["provenance"]["degraded"] is False

    # The stream goes on for the older version, too.
    [before] = ask(shop, "/features", group="user_features", ids=[7], at=at + 2 * MINUTE_MS)["rows"]
    when = datetime.fromtimestamp((at + MINUTE_MS) / 1_000, UTC).isoformat(timespec="milliseconds")
    shop.tell("replay", f"n1,7,b,PURCHASE,1.25,{when}\n")

    def changed() -> dict[str, Any] | None:
        [row] = ask(shop, "/features", group="user_features", ids=[7], at=at + 2 * MINUTE_MS)["rows"]
        return row if row["features"] != before["features"] else None

    after = eventually(changed)
    assert list(after["features"]) == list(user_features.feature_names)
    assert after["features"]["purchase_count_7d"] == before["features"]["purchase_count_7d"] + 1

    done = shop.braid("backfill", "--model", "repurchase", "--to", str(shop.cut_ms + DAY_MS + MINUTE_MS))
    assert done["models"]["repurchase"]["champion_version"] == str(
        max(int(one["version"]) for one in shop.braid("models")["versions"])
    )
    report = prove(settings, NEW, events, shop.users, at)
    assert (report.differences, report.degraded) == ([], 0)
    assert shop.braid("plan")["groups"][0]["settled"]

    def answer_of_the_new() -> dict[str, Any] | None:
        answer = ask(shop, "/predict", user_id=7, at=at)
        return answer if answer["model"]["version"] == done["models"]["repurchase"]["champion_version"] else None

    answer = eventually(answer_of_the_new)
    assert answer["provenance"]["degraded"] is False
    assert list(answer["features_used"]) == list(NEW.model_names)
    # The older version's query ends by itself.
    eventually(lambda: not any(name.startswith("online:user_features@") for name in open_store(settings).progress()))
    assert "online:user_features@" not in str(shop.braid("status")["speed"])
