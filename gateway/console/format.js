/** Numbers, times and movement, the same in all parts of the page. */

export const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
export const count = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
export const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
export const signed = (points) => `${points < 0 ? "−" : "+"}${money.format(Math.abs(points))}`;
export const calm = matchMedia("(prefers-reduced-motion: reduce)");
