-- migrate:up

-- How often an action pays in a UTC day per (actor, video); null: nothing counts the days.
ALTER TABLE awards ADD COLUMN daily_cap integer CHECK (daily_cap >= 0);
INSERT INTO awards (action, version, points, threshold, daily_cap) VALUES
    ('comment_posted', 1, 200, 100, 5), ('video_uploaded', 1, 500, 1000, NULL);

-- Kind 4 of engagements and video_counters: comments. They pay more than once: of a comment's row these two say on
-- which UTC day it paid last, and how often on that day. Nothing else reads or writes them.
ALTER TABLE engagements ADD COLUMN paid_day date, ADD COLUMN paid_on_day integer;

-- Guarded by the head of the video's owner, so numbers of one video rise in the order of commit. No CHECK on the text:
-- PostgreSQL quotes the row that breaks one in its log.
CREATE TABLE comments (
    video_id    text   NOT NULL,
    number      bigint GENERATED ALWAYS AS IDENTITY,  -- the order of pages
    id          uuid   NOT NULL,
    user_id     bigint NOT NULL,
    username    text   NOT NULL,      -- as of then
    text        text   NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (video_id, number)
);

-- A deleted video is kept: what waits for its creator is still settled, and what it has paid stays paid.
ALTER TABLE videos ADD COLUMN deleted_at timestamptz;

-- (user, video) whose upload was paid, for ever. Guarded by the user's head.
CREATE TABLE upload_awards (
    user_id   bigint NOT NULL,
    video_id  text   NOT NULL,
    points    bigint NOT NULL CHECK (points > 0),
    paid_at   timestamptz NOT NULL,
    PRIMARY KEY (user_id, video_id)
);

-- Who follows whom, or did. Guarded by the follower's head.
CREATE TABLE follows (
    follower_id  bigint  NOT NULL,
    followed_id  bigint  NOT NULL CHECK (followed_id <> follower_id),
    following    boolean NOT NULL,
    counted      boolean NOT NULL CHECK (following OR NOT counted),  -- it stands in the users' counts
    notified_at  timestamptz,
    changed_at   timestamptz NOT NULL,
    PRIMARY KEY (follower_id, followed_id)
);

-- Where follow verbs count: what a user's count is beside the follows that are counted (the directory's part).
-- following_count = following_base + counted follows. Null: no follow verb has ever counted for them.
ALTER TABLE users ADD COLUMN following_base bigint, ADD COLUMN followers_base bigint;

-- migrate:down
ALTER TABLE users DROP COLUMN followers_base, DROP COLUMN following_base;
DROP TABLE follows, upload_awards, comments;
ALTER TABLE videos DROP COLUMN deleted_at;
ALTER TABLE engagements DROP COLUMN paid_on_day, DROP COLUMN paid_day;
DELETE FROM awards WHERE action IN ('comment_posted', 'video_uploaded');
ALTER TABLE awards DROP COLUMN daily_cap;
