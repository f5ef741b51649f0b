-- migrate:up

-- How far each of Kafka's partitions was taken in, written in the transaction of what its records came to.
CREATE TABLE ingress_offsets (
    topic      text    NOT NULL,
    partition  integer NOT NULL,
    next       bigint  NOT NULL,        -- the offset of the first record that was not
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
CREATE TYPE ingress_row AS (topic text, partition integer, before bigint, after bigint);

-- Answers to commands, until Kafka has acknowledged them.
CREATE TABLE ingress_outcomes (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source  text  NOT NULL,
    body    bytea NOT NULL
);

-- Records of the directory that were taken in: (source, id) once. Kept as long as commands' keys are.
CREATE TABLE ingested_directory (
    source      text NOT NULL,
    id          text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, id)
);
CREATE INDEX ingested_directory_age ON ingested_directory (created_at);

-- A small event of a backend for few users is a copy in each inbox: the row of `broadcasts` would cost more. `event_id` is
-- the backend's own, `sent_at` the backend's moment, else when it was taken.
ALTER TABLE inbox ADD COLUMN event_id text, ADD COLUMN sent_at timestamptz;
CREATE TYPE copied_row AS (
    user_id bigint, seq bigint, id uuid, type text, event_type text, data text, event_id text, sent_us bigint);
CREATE TYPE ingested_row AS (source text, id text, fingerprint bytea, accepted integer, skipped integer);

-- migrate:down
DROP TYPE ingested_row, copied_row;
ALTER TABLE inbox DROP COLUMN sent_at, DROP COLUMN event_id;
DROP TABLE ingested_directory, ingress_outcomes, ingress_offsets;
DROP TYPE ingress_row;
