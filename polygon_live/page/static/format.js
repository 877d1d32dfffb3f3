// Numbers, times and sizes as people read them. Instants are UTC, as in the log and the ledger.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const whole = (number) => WHOLE.format(number);

export const tenth = (number) => (number >= 1000 ? whole(number) : number.toFixed(1));

/** So many decimals, and up to two more if they are there. */
export function price(number, digits) {
  if (number === null) return "–";
  const text = number.toFixed(digits + 2);
  return text.endsWith("00") ? text.slice(0, -2) : text.replace(/0$/, "");
}

/** A length of time, given in milliseconds. */
export function lasting(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  const [large, small] = hours < 48 ? [`${hours} h`, `${minutes % 60} min`] : [`${Math.floor(hours / 24)} d`, `${hours % 24} h`];
  return small.startsWith("0 ") ? large : `${large} ${small}`;
}

/** A short one, as precise as it is given. */
export const brief = (ms) => (ms < 1000 ? `${ms} ms` : lasting(ms));

/** The same in one unit, for narrow columns. */
export const age = (ms) => lasting(ms).replace(/ \d+ (min|h)$/, "");

/** The time of day; with the date if it is not today's. */
export function instant(ms, now) {
  const text = new Date(ms).toISOString();
  const time = text.slice(11, 19);
  return text.slice(0, 10) === new Date(now).toISOString().slice(0, 10) ? time : `${text.slice(0, 10)} ${time}`;
}

export function bytes(number) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (number >= size) return `${(number / size).toFixed(number >= 100 * size ? 0 : 1)} ${unit}`;
  }
  return `${number} B`;
}

/** One thing, two things. */
export const several = (number, one, more = `${one}s`) => `${whole(number)} ${number === 1 ? one : more}`;
