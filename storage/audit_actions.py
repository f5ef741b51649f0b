"""What must hold of comments, uploads and follows: the part of the audit that is about them."""

from __future__ import annotations

from typing import Final

UPLOADS_AWARD: Final = "ARRAY['video_uploaded']"
PAID_COMMENTS: Final = """(
    SELECT user_id, metadata ->> 'videoId' AS video_id, (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS times
    FROM wallet_transactions WHERE action = 'comment_posted' GROUP BY 1, 2, 3)"""
# Each cap of comments with the time in which it held, an hour longer: other nodes hear of a change a little later.
COMMENT_CAPS: Final = """(
    SELECT coalesce(daily_cap, 2147483647) AS cap,
        CASE WHEN row_number() OVER w = 1 THEN '-infinity' ELSE valid_from END AS since,
        lead(valid_from, 1, 'infinity') OVER w + interval '1 hour' AS until
    FROM awards WHERE action = 'comment_posted' WINDOW w AS (ORDER BY version))"""

# Each query lists offending rows; none is the good answer.
ACTIONS_CHECKS: Final[dict[str, str]] = {
    "comments were paid beyond the cap of a day": f"""
        SELECT user_id, video_id, day, times, cap FROM {PAID_COMMENTS} paid
        CROSS JOIN LATERAL (SELECT max(cap) AS cap FROM {COMMENT_CAPS} caps
            WHERE since < (day + 1)::timestamp AT TIME ZONE 'UTC' AND until > day::timestamp AT TIME ZONE 'UTC') held
        WHERE times > cap""",
    # A clock that was put back leaves entries of days before: only more than is flagged is a fault.
    "comments were paid on a day that is not flagged": f"""
        SELECT user_id, paid.video_id, day, times, e.paid_day, e.paid_on_day FROM {PAID_COMMENTS} paid
        LEFT JOIN engagements e ON e.actor_id = user_id AND e.video_id = paid.video_id AND e.kind = 4
        WHERE (day < e.paid_day OR (day = e.paid_day AND times <= e.paid_on_day)) IS NOT TRUE""",
    "comments are not as many as are counted": """
        SELECT user_id, video_id, coalesce(e.count, 0) AS counted, coalesce(c.count, 0) AS comments
        FROM (SELECT actor_id AS user_id, video_id, count FROM engagements WHERE kind = 4) e
        FULL JOIN (SELECT user_id, video_id, count(*) AS count FROM comments GROUP BY 1, 2) c USING (user_id, video_id)
        WHERE e.count IS DISTINCT FROM c.count""",
    "a comment stands twice": """
        SELECT id, count(*) AS times FROM comments GROUP BY id HAVING count(*) > 1""",
    "upload awards are not their entries": f"""
        SELECT user_id, video_id, coalesce(w.points, 0) AS flagged, coalesce(e.paid, 0) AS paid, e.times
        FROM upload_awards w
        FULL JOIN (SELECT user_id, metadata ->> 'videoId' AS video_id, sum(points) AS paid, count(*) AS times
            FROM wallet_transactions WHERE action = ANY({UPLOADS_AWARD}) GROUP BY 1, 2) e USING (user_id, video_id)
        WHERE w.points IS DISTINCT FROM e.paid OR e.times > 1""",
    # Only of users whom follow verbs have counted for: all other counts are what the directory says.
    "follow counts are not the directory's part plus counted follows": """
        SELECT u.id AS user_id, u.following_count, u.following_base, a.follows AS following,
            u.followers_count, u.followers_base, b.follows AS followers FROM users u
        LEFT JOIN (SELECT follower_id, count(*) AS follows FROM follows WHERE counted GROUP BY 1) a
            ON a.follower_id = u.id
        LEFT JOIN (SELECT followed_id, count(*) AS follows FROM follows WHERE counted GROUP BY 1) b
            ON b.followed_id = u.id
        WHERE u.following_count <> u.following_base + coalesce(a.follows, 0)
            OR u.followers_count <> u.followers_base + coalesce(b.follows, 0)
            OR (u.following_base IS NULL AND a.follows > 0) OR (u.followers_base IS NULL AND b.follows > 0)""",
}
