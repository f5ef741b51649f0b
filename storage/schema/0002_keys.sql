-- migrate:up

-- Request keys where money moves: kept for 30 days. One key belongs to one action, whichever table holds it.
CREATE TABLE money_requests (
    user_id      bigint NOT NULL,
    action_id    text   NOT NULL,
    fingerprint  bytea  NOT NULL,
    outcome      bytea  NOT NULL,
    created_at   timestamptz NOT NULL
) PARTITION BY RANGE (created_at);
CREATE INDEX money_requests_key ON money_requests (user_id, action_id);

-- Backends have no head to hold, so their keys are unique by themselves.
CREATE TABLE backend_requests (
    subject      text   NOT NULL,
    action_id    text   NOT NULL,
    fingerprint  bytea  NOT NULL,
    outcome      bytea  NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (subject, action_id)
);
CREATE INDEX backend_requests_age ON backend_requests (created_at);

-- The question is always of one creator's video and kind; by creator alone it read all that waits for them.
CREATE INDEX accruals_place ON accruals (creator_id, video_id, kind);
DROP INDEX accruals_creator;

-- migrate:down
CREATE INDEX accruals_creator ON accruals (creator_id);
DROP INDEX accruals_place;
DROP TABLE backend_requests, money_requests;
