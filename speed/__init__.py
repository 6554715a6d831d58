"""The speed layer: from Kafka to tiles in the online store, the raw archive, and dead letters.

stream        Kafka messages → judged events → their contributions to the entities of groups
copies        the verdicts on events: an event is late, is a copy, or counts
online, fold  contributions → open tiles → the online store, in every micro-batch, with one query per source
engine        the interface of an engine: `spark_engine`, or `flink` with `writer`; `checkpoints` has the checkpoint of each source
histories     the lake → the histories with which a stream begins in Kappa
archive       messages → Delta `raw_{table}`; messages that do not fit → dead letters
offline       the archive → closed tiles → Delta `{group}_realtime`
completeness  since when the tiles in the store are complete; `topics` notices a topic that was made anew
progress      the progress of each query → the store; `visible` waits for it
replay        the events of a file → Kafka, in the order of their times
__main__      the process: one Spark session (`session`) with all queries
"""
