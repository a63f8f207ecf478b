/** Numbers, spans and moments as people read them. `NONE` stands for what is not known. */

export const NONE = "–";
const THIN = "\u202f";
const PREFIXES = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
];
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en-US", { maximumFractionDigits: 6 });
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

const absent = (value) => value === null || value === undefined || Number.isNaN(value);

/** 1234 is "1,234". */
export function count(value) {
  return absent(value) ? NONE : whole.format(value);
}

/** 34120 is "34.1 k"; below a thousand, at most one digit behind the point. */
export function short(value) {
  if (absent(value)) return NONE;
  for (const [size, prefix] of PREFIXES) {
    if (Math.abs(value) >= size * 0.9995) return `${threeDigits(value / size)}${THIN}${prefix}`;
  }
  return Number.isInteger(value) ? whole.format(value) : threeDigits(value);
}

/** "34.1 k/s" */
export function rate(value) {
  return absent(value) ? NONE : `${short(value)}/s`;
}

/** All digits, for where the pointer rests. */
export function exact(value, unit = "") {
  return absent(value) ? "" : `${fine.format(value)}${unit && ` ${unit}`}`;
}

/** 0.0345 is "3.5 %". */
export function percent(share) {
  if (absent(share)) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.1) return `<${THIN}0.1${THIN}%`;
  return `${threeDigits(value)}${THIN}%`;
}

/** A span: 7500 is "2 h 5 min", 0.25 is "250 ms"; two units at most. */
export function span(seconds) {
  if (absent(seconds)) return NONE;
  if (seconds < 0.0005) return `0${THIN}s`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)}${THIN}ms`;
  if (seconds < 9.95) return `${trimmed(seconds.toFixed(1))}${THIN}s`;
  const rounded = Math.round(seconds);
  if (rounded < 60) return `${rounded}${THIN}s`;
  const parts = [];
  let rest = rounded;
  for (const [size, unit] of UNITS) {
    const many = Math.floor(rest / size);
    rest -= many * size;
    if (many || parts.length) parts.push([many, unit]);
  }
  parts.push([rest, "s"]);
  return parts
    .slice(0, 2)
    .filter(([many]) => many)
    .map(([many, unit]) => `${many}${THIN}${unit}`)
    .join(" ");
}

/** A span that is said once and never changes: "20 s", "1.5 h" (as a person would set it). */
export function setSpan(seconds) {
  for (const [size, unit] of UNITS) {
    if (seconds >= size && (seconds / size) * 10 === Math.round((seconds / size) * 10)) {
      return `${seconds / size}${THIN}${unit}`;
    }
  }
  return `${trimmed(String(seconds))}${THIN}s`;
}

/** Seconds of "20", "20s", "10 min", "1.5h", "2d"; NaN where it is none. */
export function parseSpan(text) {
  const found = /^\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)?\s*$/i.exec(text);
  if (found === null) return Number.NaN;
  const sizes = { s: 1, sec: 1, m: 60, min: 60, h: 3600, d: 86400 };
  return Number(found[1]) * sizes[(found[2] ?? "s").toLowerCase()];
}

/** Dollars: "$12.40", and small ones in more digits. */
export function money(dollars) {
  if (absent(dollars)) return NONE;
  const size = Math.abs(dollars);
  if (size >= 1000) return `$${whole.format(dollars)}`;
  if (size === 0 || size >= 0.01) return `$${dollars.toFixed(2)}`;
  return `$${Number(dollars.toPrecision(2))}`;
}

/** "14:03:22" today, "3 Nov, 14:03:22" on another day. `at` is in unix seconds. */
export function moment(at) {
  if (absent(at)) return NONE;
  const date = new Date(at * 1000);
  const today = new Date().toDateString() === date.toDateString();
  return today ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
}

/** The moment in full, for where the pointer rests. */
export function fullMoment(at) {
  return absent(at) ? "" : full.format(new Date(at * 1000));
}

/** "3 min ago"; "just now" below two seconds. */
export function ago(at, now = Date.now() / 1000) {
  if (absent(at)) return NONE;
  const seconds = now - at;
  return seconds < 2 ? "just now" : `${span(coarse(seconds))} ago`;
}

/** "1 request", "1,234 requests". */
export function many(value, singular, plural = `${singular}s`) {
  return `${count(value)} ${value === 1 ? singular : plural}`;
}

/** "a, b and c" */
export function listed(words, last = "and") {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} ${last} ${words.at(-1)}`;
}

/** An id's beginning, for a table. */
export function shortId(id) {
  return id.length > 18 ? `${id.slice(0, 9)}…${id.slice(-6)}` : id;
}

/** Cut to the one largest unit: what lies behind is no more exact than that to anyone. */
function coarse(seconds) {
  const [size] = UNITS.find(([size]) => seconds >= size) ?? [1];
  return Math.floor(seconds / size) * size;
}

function threeDigits(value) {
  const size = Math.abs(value);
  return trimmed(value.toFixed(size >= 99.95 ? 0 : size >= 0.995 || size === 0 ? 1 : 2));
}

function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}
