"""The speed layer: Kafka → tiles in the online store, the raw archive, and dead letters.

stream        Kafka messages → judged events → what each contributes to its entities, once
online, fold  contributions → open tiles → the online store, every micro-batch, one query per source
archive       messages → Delta `raw_{table}`; messages that do not fit → dead letters
offline       the archive → closed tiles → Delta `{group}_realtime`
completeness  since when the tiles in the store are complete; `topics` notices a topic made anew
progress      how far each query is → the store; `visible` waits for it
replay        the events of a file → Kafka, in the order of their times
__main__      the process: one Spark session with all queries
"""
