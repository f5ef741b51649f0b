-- migrate:up

-- What the lane writes most comes as arrays of rows: one array a table costs the driver half of one array a column.
-- A type is never changed, since nodes of two versions run at once: another shape is another type.
-- Moments are microseconds since 1970 (storage/statement.py).
CREATE TYPE request_row AS (user_id bigint, action_id text, fingerprint bytea, outcome bytea, created_us bigint);
CREATE TYPE engagement_row AS (
    actor_id bigint, video_id text, kind smallint, count bigint, actor_points bigint, creator_points bigint,
    actor_paid boolean, creator_paid boolean, creator_id bigint, notified_us bigint);
CREATE TYPE entry_row AS (
    user_id bigint, seq bigint, currency text, n bigint, id uuid, action text, points bigint, balance_before bigint,
    balance_after bigint, counter_account text, reason text, metadata text, created_us bigint, transfer_id uuid);
CREATE TYPE balance_row AS (user_id bigint, currency text, balance bigint, n bigint);
CREATE TYPE event_row AS (
    user_id bigint, seq bigint, id uuid, type text, event_type text, data text, created_us bigint);
CREATE TYPE head_row AS (user_id bigint, seq bigint);
CREATE TYPE counter_row AS (video_id text, kind smallint, change bigint, paid_us bigint);
CREATE TYPE accrual_row AS (
    creator_id bigint, video_id text, kind smallint, points bigint, paid integer, change integer, notify integer,
    actors text, username text, channel text, created_us bigint);

-- migrate:down
DROP TYPE accrual_row, counter_row, head_row, event_row, balance_row, entry_row, engagement_row, request_row;
