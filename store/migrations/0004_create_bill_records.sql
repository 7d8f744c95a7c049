-- Records are read in pages by number: small granules keep a page from reading eight times too much.
-- Immutable facts. The first transition is part of the record: it belongs to the close that wrote it.
CREATE TABLE IF NOT EXISTS {{table "bill_records"}} (
    window_start DateTime('UTC'),
    window_end DateTime('UTC'),
    version UInt64,
    sn String,
    seller String,
    instance_id String,
    product_id String,
    subject String,
    meter String,
    usage Decimal(38, 18),
    carried_in Decimal(38, 18),
    carried_out Decimal(38, 18),
    scale Decimal(38, 18),
    billed Decimal(38, 18),
    record_time Int64,
    package String,
    revision UInt32,
    first_state UInt8,
    first_at Int64,
    first_message String
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(window_start)
ORDER BY (window_start, version, sn)
SETTINGS index_granularity = 1024;

{{distributed "bill_records" "cityHash64(sn)"}}

-- Finds the window of a record by its number alone.
CREATE TABLE IF NOT EXISTS {{table "bill_record_windows"}} (
    sn String,
    window_start DateTime('UTC')
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (sn, window_start)
SETTINGS index_granularity = 1024;

{{distributed "bill_record_windows" "cityHash64(sn)"}}

-- Appended only. Of two rows under one (sn, seq) the earlier in time stays: precedence falls as time rises.
CREATE TABLE IF NOT EXISTS {{table "bill_record_transitions"}} (
    window_start DateTime('UTC'),
    window_end DateTime('UTC'),
    sn String,
    seq UInt32,
    state UInt8,
    at Int64,
    attempt UInt32,
    endpoint String,
    code String,
    message String,
    request_hash String,
    latency Int64,
    precedence UInt64
) ENGINE = {{engine "ReplacingMergeTree" "precedence"}}
PARTITION BY toYYYYMM(window_start)
ORDER BY (window_start, sn, seq)
SETTINGS index_granularity = 1024;

{{distributed "bill_record_transitions" "cityHash64(sn)"}}
