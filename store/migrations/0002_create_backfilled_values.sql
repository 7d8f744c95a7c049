-- Values of meters that were declared after the events, computed from the raw events. A row counts only if its run is
-- the latest of its meter and hour in backfills.
CREATE TABLE IF NOT EXISTS {{table "backfilled_values"}} (
    meter UInt64,
    hour DateTime('UTC'),
    run UInt64,
    subject String,
    event_key FixedString(16),
    content UInt64,
    version UInt64,
    time Int64,
    stamped UInt8,
    quantity Decimal(38, 18),
    text String,
    dimensions Array(String)
) ENGINE = {{engine "MergeTree" ""}}
PARTITION BY toYYYYMM(hour)
ORDER BY (meter, hour, run, subject, event_key);

{{distributed "backfilled_values" "cityHash64(subject)"}}

-- Which raw events a run has seen: their number and the sum of their hashes.
CREATE TABLE IF NOT EXISTS {{table "backfills"}} (
    meter UInt64,
    hour DateTime('UTC'),
    run UInt64,
    events UInt64,
    digest UInt64,
    finished_at DateTime('UTC')
) ENGINE = {{engine "ReplacingMergeTree" "run"}}
ORDER BY (meter, hour);

{{distributed "backfills" "0"}}
