"""What an erasure can be asked for, and what it says of places that it cannot search."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batch.erasure import Entity, entity_of
from features.project import Project
from infra.errors import InputError
from infra.settings import Settings
from orchestration.forget import _unproven
from tests.declarations import item_features, project, repurchase, user_events, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_an_id_beyond_64_bits_is_refused_before_anything_is_erased(number: int) -> None:
    with pytest.raises(InputError, match="64"):
        entity_of(project, f"user_id={number}")


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0])
def test_every_id_of_64_bits_can_be_erased(spark: SparkSession, number: int) -> None:
    entity = entity_of(project, f"user_id={number}")
    assert spark.range(1).where(f"{entity.sql} = CAST('{number}' AS BIGINT)").count() == 1


def test_tables_of_what_is_not_declared_any_more_are_named_as_not_searched(spark: SparkSession, lake: Settings) -> None:
    renamed = replace(user_features, name="customer_features")
    after = Project((user_events,), (renamed,))
    version = "0123456789abcdef"
    declared = [
        user_events.table, user_events.archive_table, "quarantine", "served_features", f"tiles_{renamed.name}_{version}", f"history_{renamed.name}_{version}",
        f"view_{renamed.name}", f"{renamed.name}_realtime",
    ]  # fmt: skip
    gone = [
        f"tiles_{user_features.name}_{version}", f"view_{user_features.name}", f"{user_features.name}_realtime", f"history_{item_features.name}_{version}",
        repurchase.training_table, "raw_orders", "orders",
    ]  # fmt: skip
    for name in (*declared, *gone, "a_table_of_the_owner"):
        spark.createDataFrame([(17, "user_features")], "entity BIGINT, `group` STRING").coalesce(1).write.format("delta").save(
            lake.table(name)
        )
    sentences = list(_unproven(spark, lake, after, (Entity("user_id", 17),), kafka=False))
    [sentence] = [sentence for sentence in sentences if "does not declare" in sentence]
    assert sorted(gone) == sorted(sentence.partition(": ")[2].partition(".")[0].split(", "))
    assert not any(
        "does not declare" in sentence
        for sentence in _unproven(spark, lake.model_copy(update={"lake_uri": f"{lake.lake_uri}-new"}), after, (), kafka=False)
    )
