// The table of symbols: fourteen in one table, a thousand in many side by side, of which only those in sight are drawn.

import { Sign, Spark, at, el, put, sentences, show } from "./dom.js";
import { age, price, several, whole } from "./format.js";

const [STATE, WHY, BID, ASK, SPREAD, RATE, RECEIVED, ACCEPTED, REJECTED, LATE, SUSPECT, DIGITS] = Array(12).keys();
const STATES = ["streaming", "quiet", "mute", "rejected", "backfilling", "closed"];
const POINTS = 40;
/** Symbols in a table; one table may have a few more. */
const TOGETHER = 25;
const MANY = 40;
const MOST_NAMED = 12;
const HEADS = [
  ["Symbol", ""],
  ["Bid", "n"],
  ["Ask", "n"],
  ["Spread", "n"],
  ["Per min", "n rate"],
  ["Age", "n"],
  ["Trend", "trend"],
  ["State", ""],
];

class Line {
  constructor(symbol) {
    this.symbol = symbol;
    this.sign = new Sign();
    this.spark = new Spark(POINTS);
    this.name = el("th", "", symbol);
    this.name.scope = "row";
    this.cells = HEADS.slice(1, 6).map(([, kind]) => el("td", kind));
    this.node = el("tr", "", this.name, ...this.cells, el("td", "trend", this.spark.node), el("td", "", this.sign.node));
    this.trend = [];
  }

  /** The point that every trend gets at a sample. */
  sample() {
    const [bid, ask, state] = [this.row[BID], this.row[ASK], this.row[STATE]];
    const unheard = bid === null || state === "mute" || state === "closed";
    this.trend.push(unheard ? null : (bid + ask) / 2);
    if (this.trend.length > POINTS) this.trend.shift();
    this.sampled = true;
  }

  draw(now) {
    const row = this.row;
    const [bid, ask, spread, rate, since] = this.cells;
    if (this.drawn !== row) {
      this.drawn = row;
      put(bid, price(row[BID], row[DIGITS]));
      put(ask, price(row[ASK], row[DIGITS]));
      put(spread, row[SPREAD] === null ? "–" : row[SPREAD].toFixed(1));
      put(rate, whole(row[RATE]));
      this.sign.set(row[STATE]);
      this.node.dataset.state = row[STATE];
    }
    put(since, row[RECEIVED] === null ? "–" : age(now - row[RECEIVED]));
    if (this.sampled) {
      this.sampled = false;
      this.spark.draw(this.trend);
    }
  }

  get counts() {
    const row = this.row;
    return [
      `${this.symbol}: ${whole(row[ACCEPTED])} accepted, ${whole(row[REJECTED])} rejected`,
      `${whole(row[LATE])} late, ${whole(row[SUSPECT])} suspect`,
      ...(row[WHY] ? [row[WHY]] : []),
    ].join("; ");
  }
}

/** Some symbols in a table of their own. */
class Group {
  constructor(lines) {
    this.lines = lines;
    this.inSight = true;
    const [first, last] = [lines[0].symbol, lines[lines.length - 1].symbol];
    const heads = HEADS.map(([name, kind]) => {
      const head = el("th", kind, name);
      head.scope = "col";
      return head;
    });
    this.node = el(
      "table",
      "symbols",
      el("caption", "unseen", `Symbols ${first} to ${last}`),
      el("thead", "", el("tr", "", ...heads)),
      el("tbody", "", ...lines.map((line) => line.node)),
    );
    for (const line of lines) line.node.addEventListener("pointerenter", () => (line.node.title = line.counts));
  }
}

/** Shows only one state, or all; says how many are in each. */
class Filters {
  constructor(parent, chosen) {
    this.state = null;
    this.text = "";
    this.buttons = ["all", ...STATES].map((state) => {
      const sign = new Sign();
      const node = el("button", "", sign.node);
      node.type = "button";
      node.addEventListener("click", () => {
        this.state = this.state === state || state === "all" ? null : state;
        chosen();
      });
      return { state, sign, node };
    });
    this.search = el("input");
    this.search.type = "search";
    this.search.placeholder = "Find a symbol";
    this.search.setAttribute("aria-label", "Find a symbol");
    this.search.addEventListener("input", () => {
      this.text = this.search.value.trim().toUpperCase().replace("/", "");
      chosen();
    });
    parent.append(...this.buttons.map((button) => button.node), this.search);
  }

  count(counts, total) {
    for (const { state, sign, node } of this.buttons) {
      const count = state === "all" ? total : (counts.get(state) ?? 0);
      sign.set(state, state === "all" ? `All ${whole(count)}` : `${whole(count)} ${state}`);
      show(node, state === "all" || count > 0 || this.state === state);
      node.setAttribute("aria-pressed", String(this.state === (state === "all" ? null : state)));
    }
    show(this.search, total > MANY);
  }

  lets(line) {
    return (this.state === null || line.row[STATE] === this.state) && line.symbol.includes(this.text);
  }
}

export class Symbols {
  constructor() {
    this.tables = at("tables");
    this.odd = sentences(at("odd"));
    this.lines = new Map();
    this.groups = [];
    this.filters = new Filters(at("filters"), () => this.draw(this.now));
    this.sight = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) target.group.inSight = isIntersecting;
    }, { rootMargin: "50%" });
  }

  /** Everything anew; what is there already stays where it is. */
  all(rows, trends) {
    const same = Object.keys(rows).join() === [...this.lines.keys()].join();
    if (!same) this.lay(Object.keys(rows));
    for (const [symbol, row] of Object.entries(rows)) {
      const line = this.lines.get(symbol);
      line.row = row;
      line.trend = trends[symbol] ?? [];
      line.sampled = true;
    }
  }

  change(rows, gone, sampled) {
    const names = Object.keys(rows);
    if (gone.length > 0 || names.some((name) => !this.lines.has(name))) {
      const kept = [...this.lines.keys()].filter((name) => !gone.includes(name));
      this.lay([...new Set([...kept, ...names])]);
    }
    for (const name of names) this.lines.get(name).row = rows[name];
    if (sampled) for (const line of this.lines.values()) line.sample();
  }

  lay(names) {
    this.lines = new Map(names.map((name) => [name, this.lines.get(name) ?? new Line(name)]));
    const lines = [...this.lines.values()];
    const many = lines.length > MANY;
    document.documentElement.classList.toggle("many", many);
    this.sight.disconnect();
    this.groups = [];
    for (let n = 0; n < lines.length; n += many ? TOGETHER : MANY) {
      const group = new Group(lines.slice(n, n + (many ? TOGETHER : MANY)));
      group.node.group = group;
      this.groups.push(group);
      this.sight.observe(group.node);
    }
    this.tables.replaceChildren(...this.groups.map((group) => group.node));
  }

  draw(now) {
    this.now = now;
    const counts = new Map();
    const reasons = new Map();
    for (const { symbol, row } of this.lines.values()) {
      counts.set(row[STATE], (counts.get(row[STATE]) ?? 0) + 1);
      const why = row[WHY] && `${row[STATE]}: ${row[WHY]}`;
      if (why) reasons.set(why, [...(reasons.get(why) ?? []), symbol]);
    }
    this.filters.count(counts, this.lines.size);
    this.odd.fill([...reasons].map(([why, names]) => `${named(names, this.lines.size)} ${why}`));
    for (const group of this.groups) {
      let shown = 0;
      for (const line of group.lines) {
        const visible = this.filters.lets(line);
        show(line.node, visible);
        shown += visible;
        if (visible && group.inSight) line.draw(now);
      }
      show(group.node, shown > 0);
    }
  }
}

function named(names, total) {
  if (names.length === total && total > 1) return `All ${several(total, "symbol")}`;
  const more = names.length > MOST_NAMED ? ` and ${whole(names.length - MOST_NAMED)} more` : "";
  return names.slice(0, MOST_NAMED).join(", ") + more;
}
