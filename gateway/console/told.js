/** What the server's facts and answers say, in words. */

import { money } from "./format.js";

const REASONS = {
  own_video: "Your own video: counted, not paid",
  already_paid: "Counted. Paid once before, so not again",
  daily_cap: "Counted. Today’s cap is reached",
  not_eligible: "Counted. Not eligible for points",
};
const VERBS = {
  "video:like": ["heart", "Like"],
  "video:unlike": ["heart", "Unlike"],
  "video:view": ["eye", "View"],
  "video:share": ["share", "Share"],
  "video:comment": ["comment", "Comment"],
  "profile:follow": ["star", "Follow"],
  "profile:unfollow": ["star", "Unfollow"],
  "wallet:gift": ["gift", "Gift"],
  "message:send": ["comment", "Message"],
};

/**
 * A notification. `names` has the `titleOf` a video and the `nameOf` a user.
 * @returns {{icon: string, text: string, detail?: string, points?: number}}
 */
export function told({ type, eventType, data }, names) {
  const actors = `${data.actorUsername ?? "Somebody"}${data.count > 1 ? ` and ${data.count - 1} more` : ""}`;
  switch (type) {
    case "video_like":
      return { icon: "heart", text: `${actors} liked your video`, detail: names.titleOf(data.videoId) };
    case "video_share":
      return { icon: "share", text: `${actors} shared your video`, detail: names.titleOf(data.videoId) };
    case "video_comment":
      return { icon: "comment", text: `${actors}: ${data.text}`, detail: names.titleOf(data.videoId) };
    case "points_earned":
      return { icon: iconOf(data), text: data.reason, detail: detailOf(data.metadata, "from", names), points: data.points };
    case "points_deducted":
      return { icon: iconOf(data), text: data.reason, detail: detailOf(data.metadata, "to", names), points: -data.points };
    case "wallet_update":
      return { icon: "coin", text: data.reason, points: data.newBalance - data.previousBalance };
    case "message_preview":
      return { icon: "comment", text: `${names.nameOf(data.senderId)}: ${data.lastMessage}` };
    case "profile_followed":
      return { icon: "star", text: `${actors} follows you` };
    default:
      return { icon: "bell", text: (type ?? eventType).replaceAll("_", " ") };
  }
}

const iconOf = ({ action }) => (action.startsWith("gift") ? "gift" : "coin");

function detailOf({ videoTitle, itemName, fromUserId, toUserId } = {}, word, names) {
  const other = fromUserId ?? toUserId;
  return videoTitle ?? itemName ?? (other === undefined ? undefined : `${word} ${names.nameOf(other)}`);
}

/** An action that waits: {icon, text}. */
export function waiting({ event, payload }, names) {
  const [icon, verb] = VERBS[event] ?? ["bell", event];
  const { text, content, videoId, toUserId, userId } = payload;
  const what = text ?? content ?? (videoId ? names.titleOf(videoId) : names.nameOf(toUserId ?? userId));
  return { icon, text: `${verb} · ${what}` };
}

/** The answer to something done to a video. */
export function remarkOn({ ok, data, error }) {
  if (!ok) return error.message || error.code;
  if (data.award) return `+${money.format(data.award.points)} LYK`;
  return REASONS[data.reason] ?? "Counted";
}
