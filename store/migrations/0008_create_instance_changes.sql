-- What happened to instances. Of rows under one key the one recorded first stays: precedence falls as time rises.
CREATE TABLE IF NOT EXISTS {{table "instance_changes"}} (
    instance_id String,
    at Int64,
    kind UInt8,
    recorded_at Int64,
    actor String,
    reason String,
    precedence UInt64
) ENGINE = {{engine "ReplacingMergeTree" "precedence"}}
ORDER BY (instance_id, at, kind);

{{distributed "instance_changes" "cityHash64(instance_id)"}}

-- Acts of people. The same entry twice is one.
CREATE TABLE IF NOT EXISTS {{table "audit_log"}} (
    at Int64,
    actor String,
    action String,
    target String,
    reason String,
    detail String,
    digest UInt64
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (at, digest);

{{distributed "audit_log" "0"}}
