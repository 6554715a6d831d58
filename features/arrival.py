"""The order of arrival. Copies of an event share an event id; the copy that arrives first counts.

`arrival_ms` is the time of arrival by the clock of the receiver: the Kafka broker, or the process that loads a file. Within one millisecond
the lower Kafka partition comes first, then the lower offset. For a loaded file the offset is the number of the row. So the order does not
depend on how the input is divided into files, micro-batches or partitions of a job. Every layer compares these columns in this order:
the batch layer when it appends to `events`, the speed layer before it drops the copies within a micro-batch.
"""

from __future__ import annotations

#: The columns to compare, most significant first; `offset` is the row's number in a file.
ARRIVAL_ORDER = ("arrival_ms", "partition", "offset")
