-- What each user did in each hour, as a job of Flink beside braid: windows by event time, which end five seconds behind the newest event.
-- {brokers} and the topic `hourly_features` are filled in by who runs it.
CREATE TEMPORARY TABLE user_events (
  event_id STRING,
  user_id BIGINT,
  event_type STRING,
  amount DOUBLE,
  event_timestamp TIMESTAMP(3),
  WATERMARK FOR event_timestamp AS event_timestamp - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'user_events',
  'properties.bootstrap.servers' = '{brokers}',
  'format' = 'json',
  'json.timestamp-format.standard' = 'ISO-8601',
  'scan.startup.mode' = 'latest-offset',
  'scan.watermark.idle-timeout' = '5 s'
);
CREATE TEMPORARY TABLE hourly_features (
  user_id BIGINT,
  window_start TIMESTAMP(3),
  events_last_hour BIGINT,
  spend_last_hour DOUBLE,
  unique_events BIGINT
) WITH (
  'connector' = 'kafka',
  'topic' = 'hourly_features',
  'properties.bootstrap.servers' = '{brokers}',
  'format' = 'json'
);
INSERT INTO hourly_features
SELECT
  user_id,
  TUMBLE_START(event_timestamp, INTERVAL '1' HOUR) AS window_start,
  COUNT(*) AS events_last_hour,
  SUM(CASE WHEN event_type = 'PURCHASE' THEN amount ELSE 0 END) AS spend_last_hour,
  COUNT(DISTINCT event_id) AS unique_events
FROM user_events
GROUP BY user_id, TUMBLE(event_timestamp, INTERVAL '1' HOUR);
