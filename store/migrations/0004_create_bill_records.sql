-- Records are read in pages by number: small granules keep a page from reading eight times too much.
-- Immutable facts, kept under the hour in which they were booked. The first transition is part of the record: it belongs to the
-- booking that wrote it.
CREATE TABLE IF NOT EXISTS {{table "bill_records"}} (
    booked_start DateTime('UTC'),
    booked_end DateTime('UTC'),
    version UInt64,
    sn String,
    window_start DateTime('UTC'),
    window_end DateTime('UTC'),
    seller String,
    instance_id String,
    product_id String,
    subject String,
    meter String,
    mode UInt8,
    usage Decimal(38, 18),
    carried_in Decimal(38, 18),
    carried_out Decimal(38, 18),
    scale Decimal(38, 18),
    billed Decimal(38, 18),
    record_time Int64,
    package String,
    revision UInt32,
    replaces String,
    first_state UInt8,
    first_at Int64,
    first_message String,
    first_detail String,
    first_actor String
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(booked_start)
ORDER BY (booked_start, version, sn)
SETTINGS index_granularity = 1024;

{{distributed "bill_records" "cityHash64(sn)"}}

-- Finds the hour under which a record is kept by its number alone.
CREATE TABLE IF NOT EXISTS {{table "bill_record_hours"}} (
    sn String,
    booked_start DateTime('UTC')
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (sn, booked_start)
SETTINGS index_granularity = 1024;

{{distributed "bill_record_hours" "cityHash64(sn)"}}

-- Appended only. Of two rows under one (sn, seq) the earlier in time stays: precedence falls as time rises.
CREATE TABLE IF NOT EXISTS {{table "bill_record_transitions"}} (
    booked_start DateTime('UTC'),
    booked_end DateTime('UTC'),
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
    detail String,
    actor String,
    precedence UInt64
) ENGINE = {{engine "ReplacingMergeTree" "precedence"}}
PARTITION BY toYYYYMM(booked_start)
ORDER BY (booked_start, sn, seq)
SETTINGS index_granularity = 1024;

{{distributed "bill_record_transitions" "cityHash64(sn)"}}

-- In which hours a record ever was in one of the states that few records reach and people ask for: held, rejected …
-- A row here proves nothing; it says where to look.
CREATE TABLE IF NOT EXISTS {{table "bill_record_marks"}} (
    state UInt8,
    booked_start DateTime('UTC')
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (state, booked_start);

{{distributed "bill_record_marks" "0"}}
