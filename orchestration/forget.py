"""`braid forget`: deletes entities from every place where braid stores them, and proves the deletion.

The steps: refuse if a run is in progress → move the served answers from Kafka to their table → delete from every table of the lake, once more after
the runs that have begun meanwhile → from the dead letters → from the online store → fold, build and publish again the aggregates of other
entities → delete the files of older versions → the proof, which searches each place again and reports the places that could not be searched or deleted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame, SparkSession

from batch.erasure import (
    Entity,
    count_rows,
    erase_files,
    erase_rows,
    forget_days,
    groups_of,
    names_entity,
    undeclared_tables,
)
from batch.housekeeping import delta_tables
from features.declaration import FeatureGroup
from features.project import Project
from features.sources import EventSource
from infra.errors import NotReadyError
from infra.kafka import SERVED_TOPIC, delete_messages, end_offsets, spark_options
from infra.settings import Settings
from infra.spark import spark_session
from monitoring.served import ingest_served
from orchestration.backfill import backfill
from orchestration.execution import OnAsset, use_deployment
from orchestration.running import require, runs
from store.protocol import Store
from store.server import reached_store

_POLL_SECONDS = 1


@dataclass(frozen=True)
class ForgetReport:
    """The result of an erasure.

    Attributes:
        entities: The entities, as `column=id`.
        erased: Place → number of deleted rows, messages or entities; a place is "table events", "topic user_events.dlq", "store user_features".
        remaining: Place → number of rows, messages or entities that a search after the erasure still finds; all 0 if the erasure is complete.
        days: The number of days with events of the entities. On these days the aggregates of other entities must be folded again.
        folded: Whether these days were folded again.
        unproven: Sentences that name the places that may still hold data of the entities, and until when.
    """

    entities: tuple[str, ...]
    erased: dict[str, int]
    remaining: dict[str, int]
    days: int
    folded: bool
    unproven: tuple[str, ...]

    @property
    def proven(self) -> bool:
        """Whether the search after the erasure found no data of the entities."""
        return not any(self.remaining.values())


def forget(
    project: Project, settings: Settings, entities: tuple[Entity, ...], fold: bool = True, on_asset: OnAsset | None = None
) -> ForgetReport:
    """Erases entities, and searches each place again.

    Args:
        project: The project.
        settings: The settings of a deployment whose online store runs. If Kafka runs, the dead letters are erased, too.
        entities: The entities.
        fold: Whether to fold, build and publish the days of their events again now. Otherwise the next batch folds these days.
        on_asset: Called at the start and the end of each asset and check of that batch.

    Raises:
        ServiceError: The online store or Kafka does not answer.
        NotReadyError: A run is in progress, which might write data that it has already read; or the batch has failed after the erasure.
    """
    require(settings, "valkey", *(["speed"] if settings.kappa and fold else []))
    use_deployment(settings)
    _refuse_runs()
    spark, kafka = spark_session(settings, "braid forget", settings.batch_memory), runs(settings, "kafka")
    sources = [source for source in project.sources if any(source.column(entity.column) for entity in entities)]
    store = reached_store(settings)
    erased: dict[str, int] = {}
    days: set[date] = set()
    if kafka:
        taken = end_offsets(settings, SERVED_TOPIC)
        ingest_served(spark, settings)
        delete_messages(settings, SERVED_TOPIC, taken)
    while True:
        for entity in entities:
            rows, touched = erase_rows(spark, settings, project, entity)
            forget_days(spark, settings, project, entity, touched)
            _add(erased, {f"table {name}": count for name, count in rows.items()})
            days.update(touched)
        # A run that has begun meanwhile, such as an automatic one, may write and publish what it had read before.
        if not (begun := _runs_at_work()):
            break
        _await(begun)
    for source in sources if kafka else ():
        _add(erased, {f"topic {source.dlq_topic}": _erase_dead_letters(spark, settings, source, entities)})
    _add(erased, {f"store {group.name}": store.drop(group, ids) for group, ids in _stored(store, project, entities)})
    folded = False
    for source in sources if fold and days else ():
        ends_ms = [view.batch_end_ms for group in project.groups_of(source) if (view := store.published(group.name))]
        if ends_ms:  # batch_end stays the latest batch_end of the published views
            backfill(project, settings, None if settings.kappa else max(ends_ms), train=False, sources=(source,), on_asset=on_asset)
            folded = True
    undeleted = erase_files(spark, settings, delta_tables(spark, settings, project))
    remaining: dict[str, int] = {}
    for entity in entities:
        _add(remaining, {f"table {name}": count for name, count in count_rows(spark, settings, project, entity).items()})
    for source in sources if kafka else ():
        _add(remaining, {f"topic {source.dlq_topic}": _count_messages(spark, settings, source.dlq_topic, source, entities)})
    # Entities of several columns are looked up again, because the stream may have written another entity with this id since.
    for group, ids in _stored(store, project, entities):
        _add(remaining, {f"store {group.name}": len(ids) if group.is_composite else store.holds(group, ids)})
    unproven = [f"Files of older versions of the table {name} could not be deleted." for name in undeleted]
    unproven += _unproven(spark, settings, project, entities, kafka)
    return ForgetReport(tuple(map(str, entities)), erased, remaining, len(days), folded, tuple(unproven))


def _refuse_runs() -> None:
    if at_work := _runs_at_work():
        run_id, job = next(iter(at_work.items()))
        raise NotReadyError(
            f"Run {run_id[:8]} of {job} is at work and may write data that it has read before.",
            "Wait for the end of the run, or end it.",
        )


def _runs_at_work() -> dict[str, str]:
    """Returns run id → name of the job, of Dagster's runs that are in progress."""
    import dagster as dg
    from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

    from orchestration.workers import fail_dead_runs

    with dg.DagsterInstance.get() as instance:
        fail_dead_runs(instance)
        return {run.run_id: run.job_name for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES))}


def _await(begun: Mapping[str, str]) -> None:
    """Waits for the end of runs."""
    while begun.keys() & _runs_at_work().keys():
        time.sleep(_POLL_SECONDS)


def _erase_dead_letters(spark: SparkSession, settings: Settings, source: EventSource, entities: tuple[Entity, ...]) -> int:
    """Erases the dead letters of entities. Returns the number of erased messages.

    Kafka cannot delete a single message. So the messages of other entities are written again, and then all earlier messages are deleted.
    """
    topic, ends = source.dlq_topic, end_offsets(settings, source.dlq_topic)
    messages, mine = _messages(spark, settings, topic, ends), _names_one(source, entities)
    count = 0 if messages is None else messages.where(mine).count()
    if messages is not None and count:
        others = messages.where(f"NOT ({mine})").select("key", "value", "headers")
        others.write.format("kafka").options(**spark_options(settings)).option("topic", topic).save()
        delete_messages(settings, topic, ends)
    return count


def _count_messages(spark: SparkSession, settings: Settings, topic: str, source: EventSource, entities: tuple[Entity, ...]) -> int:
    messages = _messages(spark, settings, topic, end_offsets(settings, topic))
    return 0 if messages is None else messages.where(_names_one(source, entities)).count()


def _messages(spark: SparkSession, settings: Settings, topic: str, ends: Mapping[int, int]) -> DataFrame | None:
    """Returns the messages of a topic before the offsets `ends`; None if the topic never had messages."""
    if not any(ends.values()):
        return None
    ending = json.dumps({topic: {str(partition): offset for partition, offset in ends.items()}})
    options = {**spark_options(settings), "subscribe": topic, "endingOffsets": ending, "includeHeaders": "true"}
    return spark.read.format("kafka").options(**options).load()


def _names_one(source: EventSource, entities: tuple[Entity, ...]) -> str:
    """Returns a SQL condition that is true for a message of one of the entities."""
    named = [entity for entity in entities if source.column(entity.column)]
    return (
        " OR ".join(f"({names_entity(source, entity, 'CAST(value AS STRING)', 'CAST(key AS STRING)')})" for entity in named)
        or "false"
    )


def _stored(store: Store, project: Project, entities: tuple[Entity, ...]) -> list[tuple[FeatureGroup, list[int | str]]]:
    """Returns the groups of the entities, each with the ids to erase.

    If several columns identify the entities of a group, the ids are those in the store that contain one of the entities; otherwise they are the ids
    of the entities themselves.
    """
    stored = []
    for group in project.groups:
        mine = [entity for entity in entities if group in groups_of(project, entity)]
        ids: list[int | str] = [entity.id for entity in mine]
        if group.is_composite:
            ids = list(dict.fromkeys(known for entity in mine for known in store.ids_of_part(group, entity.column, entity.id)))
        if mine:
            stored.append((group, ids))
    return stored


def _unproven(
    spark: SparkSession, settings: Settings, project: Project, entities: tuple[Entity, ...], kafka: bool
) -> Iterator[str]:
    """Yields a sentence for each place that may still hold data of the entities."""
    if not kafka:
        yield "Kafka does not run, so its topics were not searched: events, dead letters, and answers that are not in a table yet."
    for source in project.sources if kafka else ():
        if count := _count_messages(spark, settings, source.topic, source, entities):
            yield (
                f"The topic {source.topic} holds {count} of their messages until its retention deletes them; "
                "if the stream is read again before that, run `braid forget` again."
            )
    if undeclared := undeclared_tables(spark, settings, project):
        yield (
            f"What the project does not declare any more was not searched, neither these tables nor its keys and answers: {', '.join(undeclared)}. "
            "Delete them, or declare its source, group or model again and run `braid forget` again."
        )
    yield "The online store holds hashes of the ids of recent events, without entities, for a day at most after the stream has ended."
    if project.assets is not None:
        yield f"What the assets of {project.assets} have written holds the entities until the assets are materialized again."
    yield "Dagster's event log holds ids of recently active entities, and examples of values that differed, of earlier runs."
    yield "Values of other entities in older versions of a declaration, and models that were trained before, are computed from their events."
    yield "braid does not delete backups, logs, and files that were loaded."


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for place, count in more.items():
        total[place] = total.get(place, 0) + count
