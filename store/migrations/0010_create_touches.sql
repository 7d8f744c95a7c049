-- What was inserted or voided of hours that had ended, or nearly. Appended only; found by the time of writing.
CREATE TABLE IF NOT EXISTS {{table "touches"}} (
    at DateTime('UTC'),
    hour DateTime('UTC'),
    touch UInt64,
    subjects Array(String),
    everybody UInt8,
    reason String
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(at)
ORDER BY (at, hour, touch);

{{distributed "touches" "0"}}
