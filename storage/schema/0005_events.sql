-- migrate:up

-- An event of a backend for users: its body stands here once, and each recipient's inbox row refers to it. A long
-- list of recipients is applied in chunks, on whichever node, from where `applied` says.
CREATE TABLE broadcasts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source      text   NOT NULL,
    event_id    text   NOT NULL,        -- the backend's own, and the envelope's
    type        text   NOT NULL,
    event_type  text,                   -- null: notification:<type>
    data        json   NOT NULL,
    timestamp   timestamptz NOT NULL,   -- the backend's, else when it was taken
    recipients  bigint[] NOT NULL,      -- ascending; those who were known when it was taken
    applied     integer NOT NULL DEFAULT 0,  -- so many of them have been gone through
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at     timestamptz             -- null: some are still to get it
);
CREATE INDEX broadcasts_waiting ON broadcasts (id) WHERE done_at IS NULL;
CREATE INDEX broadcasts_done ON broadcasts (done_at);

-- Such a row has no data of its own. The eighth column still fits the header of the others: it costs them nothing.
ALTER TABLE inbox ADD COLUMN broadcast_id bigint;
ALTER TABLE inbox ALTER COLUMN data DROP NOT NULL;

-- What the first taking answered, so that a repetition answers the same.
ALTER TABLE ingested_events ADD COLUMN accepted integer NOT NULL DEFAULT 0, ADD COLUMN skipped integer NOT NULL DEFAULT 0;

-- Up to where each user has seen their notifications.
CREATE TABLE notifications_seen (
    user_id  bigint PRIMARY KEY,
    seq      bigint NOT NULL
) WITH (fillfactor = 70);

-- How far inboxes were trimmed, and to which settings (see storage/retention.py).
CREATE TABLE retention (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    keep_events  bigint,                -- null: nothing was trimmed yet
    keep_s       double precision,
    swept_to     bigint,                -- users up to this id are trimmed to these settings; null: all are
    counted_to   timestamptz,           -- what was stored before it was counted
    aged_to      timestamptz,           -- what was stored before it is gone
    begun_at     timestamptz
);
INSERT INTO retention DEFAULT VALUES;
-- Whose inbox was to be trimmed when somebody else held their head.
CREATE TABLE retention_owed (user_id bigint PRIMARY KEY);

-- A pass looks at what was stored since the last one, and at what has become too old since. The inbox's pages are
-- used again after a trim, so they hold events of two times: a range of both would be found by every pass.
CREATE INDEX inbox_age ON inbox USING brin (created_at timestamptz_minmax_multi_ops)
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX wallet_transactions_age ON wallet_transactions USING brin (created_at)
    WITH (pages_per_range = 32, autosummarize = on);

-- migrate:down
DROP INDEX wallet_transactions_age, inbox_age;
DROP TABLE retention_owed, retention, notifications_seen;
ALTER TABLE ingested_events DROP COLUMN skipped, DROP COLUMN accepted;
DELETE FROM inbox WHERE data IS NULL;
ALTER TABLE inbox ALTER COLUMN data SET NOT NULL;
ALTER TABLE inbox DROP COLUMN broadcast_id;
DROP TABLE broadcasts;
