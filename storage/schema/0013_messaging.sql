-- migrate:up

-- Whatever the lane locks of these it locks after all heads, ascending (storage/heads.py). No CHECK on texts: PostgreSQL
-- quotes the row that breaks one in its log.
CREATE TABLE conversations (
    id                 uuid PRIMARY KEY,    -- of a direct one it follows from the pair
    is_direct          boolean NOT NULL,
    creator_id         bigint NOT NULL,
    title              text,
    last_number        bigint NOT NULL DEFAULT 0,
    previewed_number   bigint NOT NULL DEFAULT 0,   -- previews were given up to this one; in between they are gathered
    previewed_at       timestamptz,         -- when gathered previews, and gathered reads, were last given
    reads_told_at      timestamptz,
    last_message_id    uuid,                -- null: there is none yet
    last_message_text  text,                -- its preview
    last_message_at    timestamptz,
    created_at         timestamptz NOT NULL
) WITH (fillfactor = 70);

-- Unread is last_number - read_number - own_after, so that a message costs its recipients no row here. Who has left has
-- no row.
CREATE TABLE participants (
    conversation_id  uuid   NOT NULL,
    user_id          bigint NOT NULL,
    read_number      bigint NOT NULL,           -- the read pointer
    own_after        bigint NOT NULL DEFAULT 0, -- own messages behind it
    joined_at        timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) WITH (fillfactor = 70);
CREATE INDEX participants_user ON participants (user_id);

CREATE TABLE messages (
    conversation_id  uuid     NOT NULL,
    number           bigint   NOT NULL,     -- gapless, given under the conversation's lock
    id               uuid     NOT NULL,     -- carries the number (handlers/messaging/ids.py), so that it needs no index
    sender_id        bigint   NOT NULL,
    message_type     smallint NOT NULL,     -- handlers/messaging/rules.py
    content          text,
    media_url        text,
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, number)
);

CREATE TABLE blocks (
    blocker_id  bigint NOT NULL,
    blocked_id  bigint NOT NULL,
    PRIMARY KEY (blocker_id, blocked_id)
);

-- Whether they have blocked anybody: who likes a video reads its owner's row anyway, and hardly ever looks further.
ALTER TABLE users ADD has_blocked boolean NOT NULL DEFAULT false;

-- What waits to be told to a large group: insert-only, emptied by the settler. A row says that there is a message, or
-- that a reader's pointer has moved; how far, the conversation and the participant say.
CREATE TABLE gathered (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conversation_id  uuid NOT NULL,
    reader_id        bigint             -- null: a message
);
CREATE INDEX gathered_conversation ON gathered (conversation_id);

-- What the lane writes, and what a message is read by (see 0007).
CREATE TYPE message_row AS (
    conversation_id uuid, number bigint, id uuid, sender_id bigint, message_type smallint, content text, media_url text,
    created_us bigint);
CREATE TYPE conversation_row AS (
    id uuid, last_number bigint, previewed_number bigint, last_message_id uuid, last_message_text text,
    created_us bigint);
CREATE TYPE participant_row AS (conversation_id uuid, user_id bigint, read_number bigint, own_after bigint);
CREATE TYPE send_row AS (user_id bigint, action_id text, other_id bigint);
CREATE TYPE read_row AS (
    conversation_id uuid, number bigint, message_id uuid, user_id bigint, after bigint, upto bigint);

-- migrate:down
DROP TYPE read_row, send_row, participant_row, conversation_row, message_row;
ALTER TABLE users DROP has_blocked;
DROP TABLE gathered, blocks, messages, participants, conversations;
