-- Amounts that did not go the ordinary way. By destination first: what is held is found without reading the rest.
CREATE TABLE IF NOT EXISTS {{table "adjustments"}} (
    destination UInt8,
    booked_start DateTime('UTC'),
    booked_end DateTime('UTC'),
    version UInt64,
    id String,
    booking UInt64,
    hour_start DateTime('UTC'),
    hour_end DateTime('UTC'),
    subject String,
    meter String,
    instance_id String,
    quantity Decimal(38, 18),
    decides String,
    record_sn String,
    reason String,
    actor String,
    at Int64
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(booked_start)
ORDER BY (destination, booked_start, version, id);

{{distributed "adjustments" "cityHash64(subject)"}}

-- Which touches of an hour a booking counted. All covers of an hour are kept under that hour or a later one.
CREATE TABLE IF NOT EXISTS {{table "covers"}} (
    booked_start DateTime('UTC'),
    version UInt64,
    hour DateTime('UTC'),
    touch UInt64
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(booked_start)
ORDER BY (booked_start, version, hour, touch);

{{distributed "covers" "0"}}
