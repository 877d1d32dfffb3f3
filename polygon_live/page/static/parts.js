// Everything on the page but the symbols: each part is drawn when it has changed, and once a second where ages are in it.

import { Facts, Pool, Sign, at, el, mark, put, sentences, show } from "./dom.js";
import { brief, bytes, instant, lasting, several, tenth, whole } from "./format.js";

const STORES = { timescale: "TimescaleDB", nats: "NATS", kafka: "Kafka" };

const counted = (counts) =>
  Object.entries(counts)
    .map(([name, count]) => `${name.replaceAll("_", " ")} ${whole(count)}`)
    .join(", ");

export class Verdict {
  constructor() {
    this.reasons = sentences(at("reasons"));
    this.notes = sentences(at("notes"));
  }

  draw({ healthy, reasons, notes, guarantee }) {
    // Only the verdict itself is read aloud: the reasons hold numbers that change every second.
    this.say(healthy ? "good" : "down", healthy ? "Healthy" : `Unhealthy: ${several(reasons.length, "reason")}`);
    this.reasons.fill(reasons);
    this.notes.fill(notes);
    this.promise(`Guarantee now: ${guarantee}.`);
  }

  /** What is shown is old from now on, and must neither look alive nor promise anything. */
  lost(text, why) {
    this.say("down", text);
    this.reasons.fill([`${why}. What is below is old. Trying again.`]);
    this.notes.fill([]);
    this.promise("");
  }

  promise(text) {
    put(at("guarantee"), text);
    show(at("guarantee"), text !== "");
  }

  say(state, text) {
    put(at("verdict"), text);
    mark(at("verdict-icon"), "href", `#i-${state}`);
    mark(document.body, "data-verdict", state);
    const title = `${text.split(/:| with/)[0]} · polygon-live`;
    if (document.title !== title) document.title = title;
  }
}

export class Totals {
  constructor() {
    this.facts = new Facts(at("totals"));
  }

  draw({ accepted, per_second, skew_ms }, collector, now) {
    const skew = skew_ms === null ? null : `${(skew_ms / 1000).toFixed(2)} s`;
    this.facts.fill([
      ["Ticks per s", tenth(per_second)],
      ["Accepted", whole(accepted)],
      ["Feed delay", skew, Math.abs(skew_ms) > 5000 ? "bad" : ""],
      ["Running", lasting(now - collector.started_ms)],
      ["UTC", instant(now, now)],
    ]);
  }
}

class Store {
  constructor() {
    this.sign = new Sign();
    this.name = el("th");
    this.name.scope = "row";
    this.numbers = [0, 0, 0, 0].map(() => el("td", "n"));
    this.told = el("ul", "told");
    this.sentences = sentences(this.told);
    const cell = el("td", "", this.told);
    cell.colSpan = 6;
    this.node = el("tbody", "", el("tr", "", this.name, el("td", "", this.sign.node), ...this.numbers), el("tr", "more", cell));
  }

  set([store, now]) {
    put(this.name, STORES[store.name] ?? store.name);
    this.node.dataset.store = store.name;
    this.node.dataset.state = store.state;
    this.sign.set(store.state);
    const { behind_seconds, waiting, delivered, per_second } = store;
    const texts = [lasting(behind_seconds * 1000), whole(waiting), whole(delivered), tenth(per_second)];
    this.numbers.forEach((cell, n) => put(cell, texts[n]));
    this.sentences.fill(this.lines(store, now));
  }

  lines(store, now) {
    const { about, complaints, delays_ms, error, error_ms, server, servers_known, until_loss_seconds } = store;
    const lines = [];
    const known = servers_known && servers_known !== server ? `servers known: ${servers_known}` : "";
    const where = [store.connected ? "connected" : "not connected", server, known].filter(Boolean);
    lines.push([...where, ...about].join(" · "));
    if (delays_ms) {
      const [half, most, nearly] = delays_ms.map(brief);
      lines.push(`a tick is there after ${half}; 95 of 100 within ${most}, 99 within ${nearly} (last minutes)`);
    }
    if (until_loss_seconds !== null) lines.push(`nothing of it is lost for another ${lasting(until_loss_seconds * 1000)} at this rate`);
    if (store.lost) lines.push(`lacks ${several(store.lost, "tick")}: see the gaps`);
    if (store.set_aside) lines.push(`${several(store.set_aside, "tick")} refused and set aside`);
    if (store.expired) lines.push(`${several(store.expired, "tick")} older than it keeps`);
    if (error) {
      const mend = store.needs_operator ? "somebody must act: " : "";
      const times = store.retries ? `, ${several(store.retries, "retry", "retries")} since the start` : "";
      lines.push(`${mend}last error at ${instant(error_ms, now)}${times}: ${error}`);
    }
    return [...lines, ...complaints];
  }
}

export class Stores {
  constructor() {
    this.pool = new Pool(at("stores-table"), () => new Store());
  }

  draw(stores, now) {
    this.pool.fill(stores.map((store) => [store, now]));
  }
}

export class Feed {
  constructor() {
    this.facts = new Facts(at("feed"));
    this.history = new Pool(at("history"), () => {
      const [time, text] = [el("time"), el("span")];
      const sign = new Sign();
      return {
        node: el("li", "", time, sign.node, text),
        set: ([event, now]) => {
          put(time, instant(event.last_ms, now));
          sign.set(event.what === "connected" ? "good" : "down", event.what);
          const times = event.times > 1 ? ` (${event.times} times since ${instant(event.first_ms, now)})` : "";
          put(text, event.why + times);
        },
      };
    });
  }

  draw(feed, now) {
    const { limits } = feed;
    const streaming = feed.state === "streaming";
    const since = feed.since_ms === null ? "" : `, connected for ${lasting(now - feed.since_ms)}`;
    const retry = feed.retry_at_ms === null ? "" : `, next try in ${lasting(feed.retry_at_ms - now)}`;
    const ended = counted(feed.endings);
    const reconnects = Math.max(0, feed.connections - 1);
    const violations = counted(limits.violations);
    this.facts.fill([
      ["State", `${feed.state}${since}${retry}`, streaming || feed.state === "off" ? "" : "warn"],
      ["Address", feed.address],
      ["Reconnects", `${whole(reconnects)}${ended ? `; ended: ${ended}` : ""}`],
      ["Last reason", feed.error && `${feed.error} (${instant(feed.error_ms, now)})`],
      ["Refused by Polygon", feed.refusals.join("; "), "warn"],
      ["Frames dropped", feed.dropped_frames || null, "bad"],
      ["Rate limit", `${limits.per_second} per s, ${whole(limits.waiting)} waiting, violations: ${violations || "none"}`, violations ? "warn" : ""],
      ["Last violation", limits.last_violation, "warn"],
    ]);
    this.history.fill(feed.history.map((event) => [event, now]));
  }
}

/** What a disk has left, and when that is used up. */
function left({ free_bytes, seconds_until_full }) {
  if (free_bytes === null) return [null];
  const full = seconds_until_full === null ? "" : `, full in ${lasting(seconds_until_full * 1000)} at this rate`;
  return [`${bytes(free_bytes)} free${full}`, full && "warn"];
}

export class Kept {
  constructor() {
    this.facts = new Facts(at("kept"));
  }

  draw({ bytes: size, most_bytes, oldest_ms, failing, room, retention, table_bytes, table_room, verification }, now) {
    this.facts.fill([
      ["Verification", verification.told, verification.differs ? "bad" : ""],
      ["Journal", failing ?? `${bytes(size)} of ${bytes(most_bytes)}`, failing ? "bad" : ""],
      ["Reaches back", oldest_ms === null ? null : lasting(now - oldest_ms)],
      ["Disk of the journal", ...left(room)],
      ["Table", table_bytes === null ? null : bytes(table_bytes)],
      ["Disk of the table", ...left(table_room)],
      ["Three days", retention.verified ? retention.detail : `unverified: ${retention.detail}`, retention.verified ? "" : "warn"],
    ]);
  }
}

export class Gaps {
  constructor() {
    this.table = at("gaps-table");
    this.pool = new Pool(this.table.tBodies[0], () => {
      const cells = ["", "t", "n", "", "", "n", ""].map((kind) => el("td", kind));
      const node = el("tr", "", ...cells);
      return {
        node,
        set: ([gap, now]) => {
          const store = gap.store === null ? "" : ` (${STORES[gap.store] ?? gap.store})`;
          const missing = gap.missing === null || gap.missing === 0 ? "" : `, ${whole(gap.missing)} missing`;
          const texts = [
            gap.symbol === "*" ? "all" : gap.symbol,
            instant(gap.from_ms, now),
            gap.to_ms === null ? "lasts" : lasting(gap.to_ms - gap.from_ms),
            gap.cause.replaceAll("_", " ") + store,
            gap.state,
            whole(gap.filled) + missing,
            gap.detail,
          ];
          cells.forEach((cell, n) => put(cell, texts[n]));
          mark(node, "data-state", gap.state);
        },
      };
    });
  }

  draw({ lasting: unheard, counts, filling, waiting, error, entries, unreadable }, now) {
    const told = Object.entries(counts).map(([cause, states]) => `${cause.replaceAll("_", " ")}: ${counted(states)}`);
    const now_filling = filling && `Being filled: ${filling.symbol}, ${filling.cause}, from ${instant(filling.from_ms, now)}.`;
    const parts = [
      unreadable && `The ledger can't be read: ${unreadable}.`,
      unheard > 0 && `${several(unheard, "symbol")} not heard at this moment.`,
      told.length ? `${told.join("; ")}.` : "None.",
      now_filling,
      waiting && `Waits: ${waiting}.`,
      error && `Last error: ${error}.`,
    ];
    put(at("gaps-told"), parts.filter(Boolean).join(" "));
    show(this.table, Boolean(entries?.length));
    this.pool.fill((entries ?? []).map((gap) => [gap, now]));
  }
}

export class Rejects {
  constructor() {
    this.pool = new Pool(at("rejects-latest"), () => {
      const [time, what, why, raw] = [el("time"), el("strong"), el("span"), el("code")];
      return {
        node: el("li", "", time, what, why, raw),
        set: ([reject, now]) => {
          put(time, instant(reject.received_ms, now));
          const stage = reject.stage === "validate" ? "" : `${STORES[reject.stage] ?? reject.stage}: `;
          put(what, `${stage}${reject.reason.replaceAll("_", " ")}${reject.symbol ? ` ${reject.symbol}` : ""}`);
          put(why, reject.detail);
          put(raw, reject.raw);
        },
      };
    });
  }

  draw({ counts, latest }, now) {
    const told = Object.entries(counts).map(([stage, reasons]) => {
      const by = stage === "validate" ? "" : `refused by ${STORES[stage] ?? stage}: `;
      return by + counted(reasons);
    });
    put(at("rejects-told"), told.length ? `${told.join("; ")}.` : "None.");
    this.pool.fill(latest.map((reject) => [reject, now]));
  }
}

export class Configuration {
  constructor() {
    this.facts = new Facts(at("configured"));
    this.values = new Pool(at("values-table").tBodies[0], () => {
      const cells = [el("td"), el("td"), el("td")];
      return { node: el("tr", "", ...cells), set: (texts) => cells.forEach((cell, n) => put(cell, texts[n])) };
    });
  }

  draw({ generation, digest, since_ms, values, ignored, hub, unheard }, now) {
    const refusal = hub.last_refusal;
    const from = refusal && [refusal.source, refusal.version, refusal.updated_by && `by ${refusal.updated_by}`];
    const heard = hub.fetched_ms === null ? null : `answered ${lasting(now - hub.fetched_ms)} ago`;
    this.facts.fill([
      ["Generation", `${generation}, since ${instant(since_ms, now)}`],
      ["Source", [hub.source, hub.version, hub.updated_by && `by ${hub.updated_by}`].filter(Boolean).join(", ")],
      ["Copy from", hub.copied_ms === null ? null : instant(hub.copied_ms, now), "warn"],
      ["Digest", digest],
      ["Central Hub", hub.url === null ? "none: the safe defaults hold" : [hub.url, heard].filter(Boolean).join(", ")],
      ["Its last error", hub.last_error, "warn"],
      ["Announcements", unheard, "warn"],
      ["Refused", refusal && `${from.filter(Boolean).join(", ")}, ${instant(refusal.at_ms, now)}: ${refusal.faults.join("; ")}`, "bad"],
      ["Ignored", ignored.join(", "), "warn"],
    ]);
    this.values.fill(Object.entries(values).map(([name, { value, origin }]) => [name, value, origin ?? ""]));
  }
}
