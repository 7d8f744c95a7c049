-- What an account has left over after a booking; the row of the latest committed booking counts.
CREATE TABLE IF NOT EXISTS {{table "account_balances"}} (
    booked_start DateTime('UTC'),
    version UInt64,
    subject String,
    meter String,
    quantity Decimal(38, 18)
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(booked_start)
ORDER BY (version, subject, meter)
SETTINGS index_granularity = 1024;

{{distributed "account_balances" "cityHash64(subject)"}}

-- Every balance that is not zero after some bookings, so that finding them never reads the whole log. One partition each:
-- old ones are dropped whole.
CREATE TABLE IF NOT EXISTS {{table "checkpoint_balances"}} (
    number UInt64,
    subject String,
    meter String,
    quantity Decimal(38, 18)
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY number
ORDER BY (number, subject, meter)
SETTINGS index_granularity = 1024;

{{distributed "checkpoint_balances" "cityHash64(subject)"}}

-- A checkpoint counts once it has a row here, and only while that booking still has that version.
CREATE TABLE IF NOT EXISTS {{table "balance_checkpoints"}} (
    number UInt64,
    version UInt64,
    rows UInt64,
    written_at DateTime('UTC')
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (number, version);

{{distributed "balance_checkpoints" "0"}}
