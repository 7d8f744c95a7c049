-- The usage of an hour as a booking counted it. Of one (window_start, subject, meter) the row of the latest committed
-- booking counts: it replaces, it never adds.
CREATE TABLE IF NOT EXISTS {{table "hourly_usage"}} (
    window_start DateTime('UTC'),
    window_end DateTime('UTC'),
    version UInt64,
    booked_start DateTime('UTC'),
    subject String,
    meter String,
    quantity Decimal(38, 18),
    events UInt64
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(window_start)
ORDER BY (window_start, version, subject, meter);

{{distributed "hourly_usage" "cityHash64(subject)"}}
