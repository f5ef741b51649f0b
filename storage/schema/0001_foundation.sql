-- migrate:up

-- What makes one history of one database different from any other (see storage/epoch.py).
CREATE TABLE instance (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    random_id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO instance DEFAULT VALUES;

CREATE TABLE users (
    id               bigint PRIMARY KEY CHECK (id BETWEEN 1 AND 9007199254740991),
    username         text NOT NULL,
    display_name     text,
    picture_url      text,
    email            text,
    roles            text[] NOT NULL DEFAULT '{viewer}',
    status           text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    following_count  bigint NOT NULL DEFAULT 0 CHECK (following_count >= 0),
    followers_count  bigint NOT NULL DEFAULT 0 CHECK (followers_count >= 0),
    -- the version of the last follow counts and fields taken from the app's backend; older ones are ignored
    version          bigint,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The one row lock that orders everything of a user: seq, wallets, request keys, paid-once keys.
CREATE TABLE heads (
    user_id     bigint PRIMARY KEY,
    seq         bigint NOT NULL DEFAULT 0,
    oldest_seq  bigint NOT NULL DEFAULT 1
) WITH (fillfactor = 70);

-- A user's wallets. Nothing but what each movement changes, so that its updates stay HOT.
CREATE TABLE accounts (
    user_id   bigint NOT NULL,
    currency  text   NOT NULL,
    balance   bigint NOT NULL DEFAULT 0 CHECK (balance >= 0),
    reserved  bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    n         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, currency)
) WITH (fillfactor = 70);

CREATE TABLE currencies (
    currency  text PRIMARY KEY,
    decimals  smallint NOT NULL CHECK (decimals BETWEEN 0 AND 18)
);
INSERT INTO currencies VALUES ('LYK', 2);

-- Amounts are minor units. A movement between a user and the platform is one row whose
-- counter_account implies the opposite half. Every entry is an event of its user too and carries
-- that event's seq, so that an award and its notification are one row: the inbox reads both tables.
CREATE TABLE wallet_transactions (
    user_id          bigint NOT NULL,
    seq              bigint NOT NULL,
    currency         text   NOT NULL,
    n                bigint NOT NULL,
    id               uuid   NOT NULL,
    action           text   NOT NULL,
    points           bigint NOT NULL,
    balance_before   bigint NOT NULL,
    balance_after    bigint NOT NULL CHECK (balance_after >= 0 AND balance_after = balance_before + points),
    counter_account  text   NOT NULL,
    transfer_id      uuid,              -- null: the movement is this row alone, its own id
    status           text   NOT NULL DEFAULT 'completed',
    reason           text,              -- null: the fixed text of the action, rendered when read
    metadata         json   NOT NULL,
    created_at       timestamptz NOT NULL,
    xact             xid8   NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (user_id, seq)
);

-- Events that are no ledger entries. `data` is the JSON text as it was first sent.
CREATE TABLE inbox (
    user_id     bigint NOT NULL,
    seq         bigint NOT NULL,
    id          uuid   NOT NULL,
    type        text   NOT NULL,
    event_type  text,                   -- null: notification:<type>
    data        json   NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (user_id, seq)
);

-- How far each of a user's devices has confirmed its inbox.
CREATE TABLE devices (
    user_id    bigint NOT NULL,
    device_id  text   NOT NULL,
    acked      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, device_id)
);

-- Request keys. Unique because the user's head is held while they are read and written, so the
-- table can be partitioned by time and old partitions dropped whole (storage/requests.py).
CREATE TABLE requests (
    user_id      bigint NOT NULL,
    action_id    text   NOT NULL,
    fingerprint  bytea  NOT NULL,
    outcome      bytea  NOT NULL,
    created_at   timestamptz NOT NULL
) PARTITION BY RANGE (created_at);
CREATE INDEX requests_key ON requests (user_id, action_id);

CREATE TABLE videos (
    id          text PRIMARY KEY CHECK (char_length(id) BETWEEN 1 AND 64),
    owner_id    bigint NOT NULL,
    title       text NOT NULL,
    version     bigint,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Per video and kind of engagement: the settled total, and when its creator last heard of it.
-- Guarded by the creator's head. kind: 1 like, 2 view, 3 share.
CREATE TABLE video_counters (
    video_id      text     NOT NULL,
    kind          smallint NOT NULL,
    total         bigint   NOT NULL DEFAULT 0,
    last_paid_at  timestamptz,          -- null: nothing was ever sent of it
    PRIMARY KEY (video_id, kind)
) WITH (fillfactor = 70);

-- The business key (actor, video, kind) with flags for what it has paid, for ever.
-- Guarded by the actor's head.
CREATE TABLE engagements (
    actor_id         bigint   NOT NULL,
    video_id         text     NOT NULL,
    kind             smallint NOT NULL,
    count            bigint   NOT NULL,   -- how often it counts in the total now; of a like 0 or 1
    actor_points     bigint   NOT NULL DEFAULT 0,  -- minor units paid to the actor
    creator_points   bigint   NOT NULL DEFAULT 0,  -- minor units paid or accrued to creator_id
    actor_paid       boolean  NOT NULL DEFAULT false,
    creator_paid     boolean  NOT NULL DEFAULT false,
    creator_id       bigint   NOT NULL,
    notified_at      timestamptz,
    PRIMARY KEY (actor_id, video_id, kind)
) WITH (fillfactor = 90);

-- What waits to be settled for a popular creator: insert-only, emptied by the settler.
CREATE TABLE accruals (
    creator_id   bigint   NOT NULL,
    video_id     text     NOT NULL,
    kind         smallint NOT NULL,
    points       bigint   NOT NULL,     -- minor units, as judged in the action's own transaction
    paid         integer  NOT NULL,     -- how many of them are paid
    change       integer  NOT NULL,     -- signed change of the video's total
    notify       integer  NOT NULL,     -- how many actors to tell of
    actors       bigint[] NOT NULL,     -- the newest of them, newest first, at most ten
    username     text,                  -- of the newest
    channel      text,                  -- of the newest share
    created_at   timestamptz NOT NULL
);
CREATE INDEX accruals_creator ON accruals (creator_id);

-- Amounts, thresholds: data with history. The newest row of an action holds.
CREATE TABLE awards (
    action      text NOT NULL,
    version     integer NOT NULL,
    points      bigint NOT NULL CHECK (points >= 0),
    threshold   bigint NOT NULL CHECK (threshold >= 0),
    valid_from  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (action, version)
);
INSERT INTO awards (action, version, points, threshold) VALUES
    ('video_liked', 1, 100, 100), ('video_viewed', 1, 100, 100), ('video_shared', 1, 200, 100),
    ('like_received', 1, 100, 1000), ('view_received', 1, 10, 1000), ('share_received', 1, 100, 1000);

-- Events of backends: (source, id) once.
CREATE TABLE ingested_events (
    source       text  NOT NULL,
    id           text  NOT NULL,
    fingerprint  bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, id)
);

-- Which gateway processes live, by a lease on the database's clock; and who is connected where.
-- Both are only saved work and right after a crash by the lease, so they need no WAL.
CREATE UNLOGGED TABLE nodes (
    node         text PRIMARY KEY,      -- name and incarnation, unique to one run of one process
    lease_until  timestamptz NOT NULL
);
CREATE SEQUENCE connection_generation;
CREATE UNLOGGED TABLE connections (
    user_id     bigint NOT NULL,
    device_id   text   NOT NULL,        -- '' where the client named none
    node        text   NOT NULL,
    generation  bigint NOT NULL,
    PRIMARY KEY (user_id, generation)
);
CREATE INDEX connections_node ON connections (node);
-- Live-topic messages that are too big for NOTIFY, for a minute.
CREATE UNLOGGED TABLE large_notices (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- migrate:down
DROP TABLE large_notices, connections, nodes, ingested_events, awards, accruals, engagements, video_counters,
    videos, requests, devices, inbox, wallet_transactions, currencies, accounts, heads, users, instance;
DROP SEQUENCE connection_generation;
