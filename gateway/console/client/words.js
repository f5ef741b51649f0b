/** What the parts of the client share. */

const FIRST_DELAY_MS = 400;

/**
 * A refusal, with the fields of the ack's error (`code`, `message`, `retryable`, `field`, `outcome`, ...), or a code of
 * the client's own: offline, disconnected, timeout, outbox_full, expired, replaced, forgotten, storage_failed.
 */
export class ApplauseError extends Error {
  constructor({ code, message = code, ...details }) {
    super(message);
    Object.assign(this, { name: "ApplauseError", code, retryable: false }, details);
  }
}

/** A fresh idempotency key; random also where `crypto.randomUUID` is missing (plain HTTP, React Native). */
export function newActionId() {
  const { crypto } = globalThis;
  if (crypto?.randomUUID) return crypto.randomUUID();
  const bytes = new Uint8Array(16).map(() => Math.random() * 256);
  crypto?.getRandomValues?.(bytes);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** An ack that the client gives itself. */
export const refusal = (code, details) => ({ ok: false, error: { code, message: code, retryable: false, ...details } });

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A delay that doubles with each failure, half of it by lot. */
export function backOff(failures, longestMs) {
  return Math.min(longestMs, FIRST_DELAY_MS * 2 ** failures) * (0.5 + Math.random() / 2);
}
