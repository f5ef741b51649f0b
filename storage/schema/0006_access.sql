-- migrate:up

-- Which user a subject of an identity provider is. Never changed once written: nodes keep it in memory.
CREATE TABLE identities (
    issuer   text   NOT NULL CHECK (char_length(issuer) <= 255),
    subject  text   NOT NULL CHECK (char_length(subject) BETWEEN 1 AND 255),
    user_id  bigint NOT NULL UNIQUE,
    PRIMARY KEY (issuer, subject)
);

-- Their ids begin where those that apps give out themselves will hardly ever be.
CREATE SEQUENCE identity_user_id AS bigint START 4503599627370496 MINVALUE 4503599627370496 MAXVALUE 9007199254740991;

-- Revocations. `xact` is how the nodes hear of them: see storage/revocations.py.
CREATE TABLE user_revocations (
    user_id     bigint PRIMARY KEY,
    up_to       bigint NOT NULL,        -- the Unix second: tokens issued in it or before are refused
    revoked_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    xact        xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX user_revocations_xact ON user_revocations (xact);

CREATE TABLE token_revocations (
    jti         text PRIMARY KEY CHECK (char_length(jti) BETWEEN 1 AND 255),
    revoked_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    xact        xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX token_revocations_xact ON token_revocations (xact);

-- The transaction that suspended a user, so that nodes hear of it. Partial, so that nothing else pays for the index.
ALTER TABLE users ADD suspended_xact xid8;
CREATE INDEX users_suspended_xact ON users (suspended_xact) WHERE status = 'suspended';

-- migrate:down
DROP INDEX users_suspended_xact;
ALTER TABLE users DROP suspended_xact;
DROP TABLE token_revocations, user_revocations, identities;
DROP SEQUENCE identity_user_id;
