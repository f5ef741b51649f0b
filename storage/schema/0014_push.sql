-- migrate:up

-- Where people with no connection are told. A device is as good as the token of ours that it was registered with: who
-- revokes that silences it (storage/push_devices.py).
CREATE TABLE push_devices (
    user_id        bigint NOT NULL,
    device_id      text   NOT NULL,
    token          text   NOT NULL,         -- the provider's address of the device
    token_key      bytea  NOT NULL,         -- its digest: an address may be longer than an index takes, and is not for logs
    platform       text   NOT NULL,
    pushed_seq     bigint NOT NULL,         -- of the user's inbox: up to here nothing is to be pushed any more
    issued_at      bigint,                  -- Unix second
    jti            text,
    registered_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, device_id),
    CONSTRAINT push_devices_token UNIQUE (token_key)
) WITH (fillfactor = 70);

-- Whose inbox is to be looked at for something to push. Written with the events, under the user's head, and taken away
-- under it; so nobody is forgotten, whoever crashes.
CREATE TABLE push_due (
    user_id  bigint PRIMARY KEY,
    since    timestamptz NOT NULL DEFAULT clock_timestamp(),    -- in the future: not before then
    tries    integer NOT NULL DEFAULT 0                         -- in vain, one after the other
) WITH (fillfactor = 70);

-- migrate:down
DROP TABLE push_due, push_devices;
