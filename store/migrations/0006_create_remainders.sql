-- The remainders open before a window, written about once a day, so that finding them reads at most a day of records.
CREATE TABLE IF NOT EXISTS {{table "remainders"}} (
    checkpoint DateTime('UTC'),
    digest UInt64,
    subject String,
    meter String,
    quantity Decimal(38, 18)
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(checkpoint)
ORDER BY (checkpoint, digest, subject, meter);

{{distributed "remainders" "cityHash64(subject)"}}

-- A checkpoint counts if it has a row here whose digest of the closes before it still holds.
CREATE TABLE IF NOT EXISTS {{table "remainder_checkpoints"}} (
    checkpoint DateTime('UTC'),
    closes UInt64,
    digest UInt64,
    rows UInt64,
    written_at DateTime('UTC')
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (checkpoint, closes, digest);

{{distributed "remainder_checkpoints" "0"}}
