-- The row that makes a window closed. The highest version of a window counts.
CREATE TABLE IF NOT EXISTS {{table "window_closes"}} (
    window_start DateTime('UTC'),
    window_end DateTime('UTC'),
    version UInt64,
    closed_at Int64,
    events UInt64,
    usages UInt64,
    records UInt64
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (window_start, version);

{{distributed "window_closes" "0"}}

-- The row with the highest place counts; 0 means that the window has due records again.
CREATE TABLE IF NOT EXISTS {{table "window_settlements"}} (
    window_start DateTime('UTC'),
    version UInt64,
    settled_at Int64,
    place UInt64
) ENGINE = {{engine "ReplacingMergeTree" "place"}}
ORDER BY (window_start, version);

{{distributed "window_settlements" "0"}}
