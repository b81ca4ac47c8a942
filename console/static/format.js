/** Numbers and codes as people read them; "–" where there is none. */

export const NONE = "–";

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const MINUS = "−";

/** Milliseconds with a unit; more digits the shorter it is. */
export function ms(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size >= 1 || size === 0 ? 1 : 2;
  return `${number(value, digits)} ms`;
}

/** A number with thousands separated and a true minus sign. */
export function number(value, digits = 0) {
  if (value === null || value === undefined) return NONE;
  const text = value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return text.replace("-", MINUS);
}

/** What a rank had to spare: with its sign, and the word when it was late. */
export function spare(row) {
  if (row.spare_ms === null || row.spare_ms === undefined) return NONE;
  return row.spare_ms < 0 ? ms(row.spare_ms) : `+${ms(row.spare_ms)}`;
}

/** A share of a whole, in per cent. */
export function share(part, whole) {
  return whole > 0 ? `${number((100 * part) / whole, part === 0 || part === whole ? 0 : 1)} %` : NONE;
}

/** Bytes in binary units. */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  let unit = 0;
  for (; value >= 1024 && unit < BYTE_UNITS.length - 1; unit += 1) value /= 1024;
  return `${number(value, unit === 0 || value >= 100 ? 0 : 1)} ${BYTE_UNITS[unit]}`;
}

/** Seconds since something was seen. */
export function age(value_s) {
  if (value_s === null || value_s === undefined) return NONE;
  return value_s < 120 ? `${number(value_s, value_s < 10 ? 1 : 0)} s ago` : `${number(value_s / 60)} min ago`;
}

/** Local time of day; with milliseconds unless asked otherwise. */
export function clock(unix_ms, withMillis = true) {
  const at = new Date(unix_ms);
  const two = (value) => String(value).padStart(2, "0");
  const seconds = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return withMillis ? `${seconds}.${String(at.getMilliseconds()).padStart(3, "0")}` : seconds;
}

/** An attribute's value as text, whatever its type. */
export function plain(value) {
  return typeof value === "string" && value !== "" ? value : JSON.stringify(value);
}

/** The same text with each number and its unit on one line. */
export function unbroken(text) {
  return text.replaceAll(/(\d) ms/g, "$1\u00a0ms");
}
