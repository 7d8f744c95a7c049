-- One row per event as it was sent, with the values of the meters known when it was loaded.
CREATE TABLE IF NOT EXISTS {{table "usage_events"}} (
    hour DateTime('UTC'){{codec "Delta, ZSTD(1)"}},
    subject String,
    event_key FixedString(16){{codec "NONE"}},
    content UInt64{{codec "NONE"}},
    version UInt64{{codec "T64, LZ4"}},
    batch UInt64{{codec "ZSTD(1)"}},
    time Int64{{codec "T64, LZ4"}},
    stamped UInt8,
    source String{{codec "ZSTD(1)"}},
    id String{{codec "ZSTD(1)"}},
    type String,
    data String{{codec "ZSTD(1)"}},
    extensions String{{codec "ZSTD(1)"}},
    meters Array(UInt64),
    quantities Array(Decimal(38, 18)){{codec "ZSTD(1)"}},
    texts Array(String){{codec "ZSTD(1)"}},
    dimensions Array(Array(String)){{codec "ZSTD(1)"}},
    received Int64 ALIAS toInt64(bitNot(version)),
    ingested_at DateTime('UTC') ALIAS toDateTime(bitShiftRight(batch, 32), 'UTC')
) ENGINE = {{engine "ReplacingMergeTree" "version"}}
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, subject, event_key, content);

{{distributed "usage_events" "cityHash64(subject)"}}
