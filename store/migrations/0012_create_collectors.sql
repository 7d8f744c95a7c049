-- The last sign of life of each daemon that takes events, and how far its spool was behind then.
CREATE TABLE IF NOT EXISTS {{table "collectors"}} (
    name String,
    beat UInt64,
    at Int64,
    unconfirmed UInt64,
    lag Int64,
    stopped UInt8
) ENGINE = {{engine "ReplacingMergeTree" "beat"}}
ORDER BY name;

{{distributed "collectors" "0"}}
