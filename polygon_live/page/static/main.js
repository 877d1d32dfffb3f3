// From the collector's stream onto the page. `known` is the latest of every part; what changed is drawn.

import { at, put, show } from "./dom.js";
import { instant } from "./format.js";
import { Configuration, Feed, Gaps, Kept, Rejects, Stores, Totals, Verdict } from "./parts.js";
import { Refused, follow, token } from "./stream.js";
import { Symbols } from "./symbols.js";

const parts = {
  stores: new Stores(),
  feed: new Feed(),
  gaps: new Gaps(),
  rejects: new Rejects(),
  journal: new Kept(),
  configuration: new Configuration(),
};
const verdict = new Verdict();
const totals = new Totals();
const symbols = new Symbols();
let known = {};

function heard(name, body) {
  known = name === "full" ? body : { ...known, ...body };
  const now = known.at_ms;
  show(at("page"), true);
  document.body.classList.remove("lost");
  if (name === "full") symbols.all(body.symbols, body.trends);
  else symbols.change(body.symbols, body.gone, body.sampled);
  symbols.draw(now);
  for (const [part, drawn] of Object.entries(parts)) drawn.draw(known[part], now);
  totals.draw(known.totals, known.collector, now);
  verdict.draw(known.verdict);
  show(at("simulated"), known.collector.simulated);
  put(at("who"), `${known.collector.name} · polygon-live ${known.collector.version}`);
}

function lost(why) {
  show(at("page"), true);
  const since = known.at_ms === undefined ? "" : ` since ${instant(known.at_ms, known.at_ms)} UTC`;
  verdict.lost(`No contact with the collector${since}`, why);
  document.body.classList.add("lost");
}

function askForToken(told) {
  const form = at("login");
  show(at("page"), false);
  show(form, true);
  put(at("login-told"), told);
  at("token").focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    token.keep(at("token").value);
    at("token").value = "";
    show(form, false);
    run();
  };
}

async function run() {
  try {
    await follow(heard, lost);
  } catch (why) {
    if (!(why instanceof Refused)) throw why;
    const given = token.get() !== null;
    token.forget();
    askForToken(given ? "That is not its token." : "");
  }
}

const guarded = document.documentElement.dataset.token === "asked";
show(at("links"), !guarded); // a link sends no token
if (guarded && token.get() === null) askForToken("");
else run();
