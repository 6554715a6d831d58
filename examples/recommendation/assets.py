"""The example's own Dagster assets: the first stage, which chooses candidates before the model ranks them."""

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from braid import Deployment
from examples.recommendation.candidates import FOLDER, write_candidates
from examples.recommendation.definitions import visits


def assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """Returns the asset `visit_candidates`."""

    @dg.asset(
        deps=[visits.table], group_name="recommendation", kinds={"spark", "parquet"}, owners=["team:features"],
        description="For each user items by Spark ALS, for each item those that were seen together with it, and the popular items.",
    )  # fmt: skip
    def visit_candidates(spark: LazyPySparkResource) -> dg.MaterializeResult:
        session = spark.spark_session
        events = session.read.format("delta").load(deployment.table(visits.table))
        rows = write_candidates(session, events, deployment.home / FOLDER)
        return dg.MaterializeResult(metadata={f"rows of {name}": count for name, count in rows.items()})

    return [visit_candidates]
