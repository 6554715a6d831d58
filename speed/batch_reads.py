"""Which events of the stream a batch has missed: they arrived after the batch had read the archive, but lie before its batch_end.

A batch records its batch_end, or where it derives that one the time that it cannot lie before, and offsets of the topic in the online store before it
reads the archive (`record`). From the record on, the speed
layer counts such events as late (`missed`), so that Dagster folds their days again. They stay in their tiles, which answers read if the batch is not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from store.protocol import Messages, Store

_NOTES = "batch-reads"


class BatchRead(NamedTuple):
    """The latest batch of a source.

    Attributes:
        batch_end_ms: Its batch_end.
        offsets: Partition → an offset before which the batch has every message.
    """

    batch_end_ms: int
    offsets: Mapping[int, int]


def record(store: Store, source: str, read: BatchRead) -> None:
    """Records a batch of a source, unless one with a later batch_end is recorded: its view is not replaced."""
    latest = recorded(store, source)
    if latest and latest.batch_end_ms > read.batch_end_ms:
        return
    offsets = {str(partition): offset for partition, offset in read.offsets.items()}
    store.note(_NOTES, source, {"batch_end_ms": read.batch_end_ms, "offsets": offsets})


def recorded(store: Store, source: str) -> BatchRead | None:
    """The latest batch of a source; None before the first."""
    note = store.notes(_NOTES).get(source)
    if note is None:
        return None
    return BatchRead(note["batch_end_ms"], {int(partition): offset for partition, offset in note["offsets"].items()})


def missed(read: BatchRead | None, ts_ms: npt.NDArray[np.int64], messages: Messages) -> npt.NDArray[np.bool_]:
    """Whether the latest batch has missed each event.

    Args:
        read: The latest batch.
        ts_ms: The times of the events.
        messages: Their messages.
    """
    if read is None:
        return np.zeros(len(ts_ms), bool)
    early = np.flatnonzero(ts_ms < read.batch_end_ms)  # usually none
    known_ends = [read.offsets.get(partition, 0) for partition in messages.partition[early].tolist()]
    is_missed = np.zeros(len(ts_ms), bool)
    is_missed[early] = messages.offset[early] >= np.array(known_ends, np.int64)
    return is_missed
