"""What an erasure can be asked for, and what it says of places that it cannot search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.erasure import entity_of
from infra.errors import InputError
from tests.declarations import project

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
