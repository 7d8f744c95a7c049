CREATE TABLE IF NOT EXISTS {{table "hourly_usage"}} (
    window_start DateTime('UTC'),
    window_end DateTime('UTC'),
    version UInt64,
    subject String,
    meter String,
    quantity Decimal(38, 18),
    events UInt64
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(window_start)
ORDER BY (window_start, version, subject, meter);

{{distributed "hourly_usage" "cityHash64(subject)"}}
