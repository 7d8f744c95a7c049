-- Signs of life of the lease's holders (docs/adr/0009); merges keep the last of each.
CREATE TABLE IF NOT EXISTS {{table "lease_renewals"}} (
    epoch UInt64,
    holder String,
    beat UInt64,
    released UInt8
) ENGINE = {{engine "ReplacingMergeTree" "beat"}}
ORDER BY (epoch, holder);

{{distributed "lease_renewals" "0"}}
