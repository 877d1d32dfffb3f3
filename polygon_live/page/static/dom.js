// What is on the page is changed in place, and only where it differs: nothing flickers, nothing that is selected or
// scrolled is lost. Text goes in as text, never as HTML: much of it comes from other machines.

const SVG = "http://www.w3.org/2000/svg";

export const at = (id) => document.getElementById(id);

export function el(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** A node whose only content is this text. */
export function put(node, text) {
  const inside = node.firstChild;
  if (inside === null) node.append(text);
  else if (inside.data !== text) inside.data = text;
}

export function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** A shape and a word, which say the same. */
export class Sign {
  constructor() {
    this.use = svg("use", {});
    const icon = svg("svg", { class: "icon", "aria-hidden": "true" });
    icon.append(this.use);
    this.word = el("span");
    this.node = el("span", "sign", icon, this.word);
  }

  set(state, word = state) {
    if (this.state !== state) {
      this.state = state;
      this.use.setAttribute("href", `#i-${state}`);
      this.node.dataset.state = state;
    }
    put(this.word, word);
  }
}

/** A line of prices without axes; null breaks it. */
export class Spark {
  constructor(points) {
    this.points = points;
    this.path = svg("path", { "vector-effect": "non-scaling-stroke" });
    this.node = svg("svg", {
      class: "spark",
      "aria-hidden": "true",
      preserveAspectRatio: "none",
      viewBox: `0 0 ${points - 1} 16`,
    });
    this.node.append(this.path);
  }

  draw(prices) {
    const known = prices.filter((price) => price !== null);
    const least = Math.min(...known);
    const range = Math.max(...known) - least;
    const left = this.points - prices.length;
    let line = "";
    if (known.length < 3) prices = []; // no trend yet
    let pen = "M";
    prices.forEach((price, n) => {
      if (price === null) {
        pen = "M";
        return;
      }
      const y = range > 0 ? 15 - (14 * (price - least)) / range : 8;
      line += `${pen}${left + n} ${y.toFixed(1)}`;
      pen = "L";
    });
    this.path.setAttribute("d", line);
  }
}

/** As many children as there are items: each is made once by `make`, which gives its node and how to change it. */
export class Pool {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.made = [];
  }

  fill(items) {
    while (this.made.length < items.length) {
      const one = this.make();
      this.made.push(one);
      this.parent.append(one.node);
    }
    this.made.forEach((one, n) => {
      show(one.node, n < items.length);
      if (n < items.length) one.set(items[n]);
    });
    show(this.parent, items.length > 0);
  }
}

/** Plain sentences. */
export const sentences = (parent) =>
  new Pool(parent, () => {
    const node = el("li");
    return { node, set: (text) => put(node, text) };
  });

/** Name, value and, if it is not as it should be, a tone: "bad" or "warn". Pairs without a value are left out. */
export class Facts {
  constructor(list) {
    this.pool = new Pool(list, () => {
      const name = el("dt");
      const value = el("dd");
      return {
        node: el("div", "", name, value),
        set: ([label, text, tone]) => {
          put(name, label);
          put(value, String(text));
          mark(value, "class", tone ?? "");
        },
      };
    });
  }

  fill(pairs) {
    this.pool.fill(pairs.filter(([, value]) => value !== null && value !== undefined && value !== ""));
  }
}
