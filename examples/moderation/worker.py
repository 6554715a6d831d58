"""The worker of the forum: reads the topic `texts`, asks the model about each text, and writes a verdict to the topic `verdicts`.

Each text is one request to `/models/moderation/predict`. If the request is refused or its answer is late, the text waits for a person: the verdict
is "review", as for a probability between the two bounds. Offsets are committed after Kafka has acknowledged the verdicts. So a worker that was killed
and restarted writes some verdicts again, with the same key, and leaves out no text.

    python -m examples.moderation.worker --kafka 127.0.0.1:9092 --serving http://127.0.0.1:3001
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import typer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

TEXTS, VERDICTS, GROUP = "texts", "verdicts", "moderation"
#: The probability from which a text is removed, and the probability from which a person reviews it.
REMOVE, REVIEW = 0.8, 0.2
#: The time within which a verdict must come, and the number of concurrent requests.
BUDGET_SECONDS, CONCURRENT = 5.0, 8
_BATCH = 200
#: The columns that a verdict needs.
FIELDS = {"text_id", "author_id", "text_key", "text", "links", "event_timestamp"}


@dataclass
class Figures:
    """Figures about a worker's work.

    Attributes:
        verdicts: Verdict → number of its texts.
        unreadable: The number of messages that are no event of the source. The speed layer sends them to the dead-letter topic.
        seconds: For each text, the time from Kafka's time of the text to the acknowledgement of its verdict.
        backlog: The number of messages that wait in Kafka.
        largest_backlog: The largest backlog so far.
    """

    verdicts: dict[str, int] = field(default_factory=lambda: {"keep": 0, "review": 0, "remove": 0})
    unreadable: int = 0
    seconds: list[float] = field(default_factory=list)
    backlog: int = 0
    largest_backlog: int = 0


def verdict_of(probability: float | None) -> str:
    """Returns the verdict for a probability of removal; the probability is None if the model has not answered."""
    if probability is None or REVIEW <= probability < REMOVE:
        return "review"
    return "remove" if probability >= REMOVE else "keep"


def text_of(message: bytes | None) -> dict[str, Any] | None:
    """Returns the event of a message; None for a message that is no event of the source."""
    try:
        event = json.loads(message or b"")
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.keys() >= FIELDS and isinstance(event["text_id"], str) else None


class Judge:
    """Asks the model about texts.

    Args:
        client: The HTTP client, with the address of serving.
        at_event_time: Whether the model predicts as of the time of the text, for past texts that are streamed again, rather than as of now.
    """

    def __init__(self, client: httpx.Client, at_event_time: bool = False) -> None:
        self._client, self._at_event_time = client, at_event_time

    def verdict(self, text: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the verdict for an event of `texts`: its keys, `verdict`, `probability`, and whether the answer is `degraded`."""
        body = {
            "author_id": text["author_id"],
            "text_key": text["text_key"],
            "text_id": text["text_id"] or None,  # a removal will have the same `text_id`, so the outcome can be joined
            "context": {"text": text["text"], "links": text["links"]},
        }
        if self._at_event_time:
            body["at"] = text["event_timestamp"]
        probability, degraded = None, True
        try:
            answer = self._client.post("/models/moderation/predict", json=body)
            if answer.is_success:
                probability, degraded = answer.json()["prediction"], answer.json()["provenance"]["degraded"]
        except httpx.HTTPError:
            pass
        verdict = {"verdict": verdict_of(probability), "probability": probability, "degraded": degraded}
        return {"text_id": text["text_id"], "author_id": text["author_id"], **verdict}


class Worker:
    """Reads texts and writes verdicts until it is stopped.

    Args:
        kafka: The options of a client of kafka-python, such as `bootstrap_servers`.
        serving_url: The address of serving.
        headers: The headers of a request to serving, such as its key.
        at_event_time: As in `Judge`.
    """

    def __init__(self, kafka: Mapping[str, Any], serving_url: str, headers: Mapping[str, str], at_event_time: bool = False) -> None:
        self._kafka, self._serving_url, self._headers, self._at_event_time = kafka, serving_url, headers, at_event_time
        self.figures = Figures()

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set and no message waits any more."""
        consumer = KafkaConsumer(
            TEXTS, **self._kafka, group_id=GROUP, enable_auto_commit=False, auto_offset_reset="earliest", max_poll_records=_BATCH,
            isolation_level="read_committed",
        )  # fmt: skip
        producer = KafkaProducer(**self._kafka, linger_ms=2)
        try:
            with (
                httpx.Client(base_url=self._serving_url, headers=dict(self._headers), timeout=BUDGET_SECONDS) as client,
                ThreadPoolExecutor(CONCURRENT) as executor,
            ):
                judge = Judge(client, self._at_event_time)
                while not (stop.is_set() and self.figures.backlog == 0):
                    polled = consumer.poll(timeout_ms=200)
                    records = [record for part in polled.values() for record in part]
                    if records:
                        self._answer(producer, judge, executor, records)
                        consumer.commit()
                    self._count_backlog(consumer)
        finally:
            producer.close(timeout=10)
            consumer.close()

    def summary(self) -> dict[str, Any]:
        """Returns the numbers of verdicts, the percentiles of the time to a verdict in seconds, and the largest backlog."""
        cuts = statistics.quantiles(self.figures.seconds, n=100) if len(self.figures.seconds) > 1 else [0.0] * 99
        within = sum(taken <= BUDGET_SECONDS for taken in self.figures.seconds) / max(1, len(self.figures.seconds))
        times = {"p50_seconds": round(cuts[49], 2), "p99_seconds": round(cuts[98], 2), "within_budget": round(within, 4)}
        return {
            **self.figures.verdicts,
            "unreadable": self.figures.unreadable,
            **times,
            "largest_backlog": self.figures.largest_backlog,
        }

    def _answer(self, producer: Any, judge: Judge, executor: ThreadPoolExecutor, records: Sequence[Any]) -> None:
        texts = [(record.timestamp, text) for record in records if (text := text_of(record.value)) is not None]
        self.figures.unreadable += len(records) - len(texts)
        futures = []
        for verdict in executor.map(judge.verdict, [text for _, text in texts]):
            self.figures.verdicts[verdict["verdict"]] += 1
            futures.append(producer.send(VERDICTS, key=verdict["text_id"].encode(), value=json.dumps(verdict).encode()))
        for (arrived_ms, _), future in zip(texts, futures, strict=True):
            future.get(timeout=30)
            self.figures.seconds.append(time.time() - arrived_ms / 1_000)

    def _count_backlog(self, consumer: Any) -> None:
        """Counts the backlog: the messages of all partitions after the position of this worker."""
        parts: set[TopicPartition] = consumer.assignment()
        if not parts:
            self.figures.backlog = 1  # unknown until Kafka has assigned partitions
            return
        ends = consumer.end_offsets(list(parts))
        self.figures.backlog = sum(max(0, end - consumer.position(part)) for part, end in ends.items())
        self.figures.largest_backlog = max(self.figures.largest_backlog, self.figures.backlog)


def main(
    kafka: Annotated[str, typer.Option(help="The address of Kafka.")],
    serving: Annotated[str, typer.Option(help="The address of serving.")],
    metrics_port: Annotated[int, typer.Option(help="The port of the metrics.")] = 9_108,
) -> None:
    """Writes verdicts until Ctrl-C, and shows the backlog as a metric."""
    from prometheus_client import Gauge, start_http_server

    worker, stop = Worker({"bootstrap_servers": kafka}, serving, {}), threading.Event()
    Gauge("moderation_backlog_texts", "Texts that wait for a verdict.").set_function(lambda: worker.figures.backlog)
    start_http_server(metrics_port, addr="127.0.0.1")
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        stop.set()
        thread.join()


if __name__ == "__main__":
    typer.run(main)
