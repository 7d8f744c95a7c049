-- The log of bookings (docs/adr/0009). A row is a copy of the view booking_<number>, whose creation was the commit.
CREATE TABLE IF NOT EXISTS {{table "bookings"}} (
    number UInt64,
    version UInt64,
    kind UInt8,
    window_start DateTime('UTC'),
    window_end DateTime('UTC'),
    at Int64,
    events UInt64,
    usages UInt64,
    records UInt64,
    adjustments UInt64,
    balances UInt64,
    covers UInt64,
    instance_id String,
    actor String,
    reason String,
    meters String
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (number, version);

{{distributed "bookings" "0"}}

-- The row with the highest place counts; settled_at 0 means that the booking has due records again.
CREATE TABLE IF NOT EXISTS {{table "booking_settlements"}} (
    number UInt64,
    settled_at Int64,
    place UInt64
) ENGINE = {{engine "ReplacingMergeTree" ""}}
ORDER BY (number, place, settled_at);

{{distributed "booking_settlements" "0"}}
