-- Events that somebody voided: by key, whatever their content. One void may have many rows.
CREATE TABLE IF NOT EXISTS {{table "event_voids"}} (
    hour DateTime('UTC'),
    subject String,
    event_key FixedString(16),
    void UInt64,
    stamped UInt8,
    at DateTime('UTC'),
    actor String,
    reason String
) ENGINE = {{engine "ReplacingMergeTree" ""}}
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, subject, event_key, void);

{{distributed "event_voids" "cityHash64(subject)"}}
