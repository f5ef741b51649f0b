/** Numbers, times and movement, the same in all parts of the page. */

export const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
export const count = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
export const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const weekday = new Intl.DateTimeFormat("en", { weekday: "long" });
const date = new Intl.DateTimeFormat("en", { day: "numeric", month: "short" });
const DAY_MS = 86_400_000;

/** "Today", "Yesterday", "Monday", then the date. */
export function dayOf(time, now = new Date()) {
  const midnight = (at) => new Date(at).setHours(0, 0, 0, 0);
  const days = Math.round((midnight(now) - midnight(time)) / DAY_MS);
  return ["Today", "Yesterday"][days] ?? (days < 7 ? weekday : date).format(time);
}

export const signed = (points) => `${points < 0 ? "−" : "+"}${money.format(Math.abs(points))}`;
export const calm = matchMedia("(prefers-reduced-motion: reduce)");
