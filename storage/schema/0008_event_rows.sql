-- migrate:up

-- Backends' events come in batches: one array of rows for their bodies, one for their recipients' inboxes.
CREATE TYPE broadcast_row AS (
    source text, event_id text, type text, event_type text, data text, timestamp timestamptz, recipients bigint[],
    applied integer);
CREATE TYPE shared_row AS (
    user_id bigint, seq bigint, id uuid, type text, event_type text, broadcast_id bigint);

-- migrate:down
DROP TYPE shared_row, broadcast_row;
