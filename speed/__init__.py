"""The speed layer: Kafka → tiles since the last batch → online store; the raw archive; dead letters.

    stream      Kafka messages → events that fit the contract, with the reason for those that do not
    online      events → open tiles → online store                     (every micro-batch, as soon as possible)
    fold        Arrow lists of a tile's events → packed tiles           (pure)
    archive     messages → Delta `raw_events`, misfits → dead letters   (every few seconds)
    offline     closed tiles → Delta `{group}_realtime`                 (once the watermark has passed them)
    progress    how far each query is → `braid:speed` in the online store
    __main__    the process: one session, all queries
    replay      a file's events → Kafka, in order of time

Features are declared in `features`; this room imports that one and `infra` alone.
"""
