/**
 * The two charts of the last minute, drawn in pixels so that their text keeps its size.
 *
 * Each has three forms: the drawing, a sentence as its text alternative, and a table of its
 * numbers that is filled while it is open.
 */

import { drawn, element, say } from "./dom.js";
import { NONE, clock, ms, number } from "./format.js";
import { TIERS } from "./words.js";

const HEIGHT = 148;
const TOP = 10;
const BOTTOM = 20;
const LEFT = 34;
const RIGHT = 116;
const LABEL_GAP = 13;
const STEPS = [1, 2, 4, 6, 8, 10];

/** A chart inside a `<figure>`: redrawn when it is given a history and when its width changes. */
class Chart {
  #figure;
  #shown = null;

  constructor(figure, columns) {
    this.#figure = figure;
    this.svg = drawn("svg", { role: "img", height: HEIGHT, class: "plot" });
    this.below = element("p", { class: "legend" });
    this.body = element("tbody");
    const head = element("tr", {}, ...["At", ...columns].map((name) => element("th", { scope: "col" }, name)));
    this.caption = element("caption", {}, "The last minute, newest first");
    const table = element("table", {}, this.caption, element("thead", {}, head), this.body);
    this.details = element("details", { class: "numbers" }, element("summary", {}, "Numbers"));
    this.details.append(element("div", { class: "scroll" }, table));
    this.details.addEventListener("toggle", () => this.#draw());
    figure.append(this.svg, this.below, this.details);
    new ResizeObserver(() => this.#draw()).observe(figure);
  }

  show(...shown) {
    this.#shown = shown;
    this.#draw();
  }

  #draw() {
    const width = this.#figure.clientWidth;
    if (this.#shown === null || width === 0) return;
    this.svg.setAttribute("width", width);
    const plot = { left: LEFT, right: width - RIGHT, top: TOP, bottom: HEIGHT - BOTTOM };
    const { parts, summary } = this.drawing(plot, ...this.#shown);
    this.svg.setAttribute("aria-label", summary);
    this.svg.replaceChildren(...parts);
    if (!this.details.open) return;
    const rows = this.rows(...this.#shown).reverse();
    this.body.replaceChildren(...rows.map((cells) => tableRow(cells)));
  }
}

/** P50 and P99 of ranking for each second, and the budget. */
export class LatencyChart extends Chart {
  constructor(figure) {
    super(figure, ["P50", "P99", "Ranks"]);
    this.below.remove();
  }

  drawing(plot, history, budget_ms) {
    const seen = history.filter((second) => second.p99_ms !== null);
    const top = ceiling(Math.max(budget_ms ?? 0, ...seen.map((second) => second.p99_ms), 1));
    const y = (value) => plot.bottom - (value / top) * (plot.bottom - plot.top);
    const lines = [
      ["p99", "P99", history.map((second) => second.p99_ms)],
      ["p50", "P50", history.map((second) => second.p50_ms)],
    ];
    const labels = [];
    if (budget_ms !== null) labels.push({ kind: "budget", text: `budget ${ms(budget_ms)}`, y: y(budget_ms) });
    const parts = [...axes(plot, top, y)];
    if (budget_ms !== null) parts.push(horizontal(plot, y(budget_ms), "budget-line"));
    for (const [kind, name, values] of lines) {
      parts.push(...polyline(plot, values, y, kind));
      const last = values.findLast((value) => value !== null);
      if (last !== undefined) labels.push({ kind, text: `${name} ${ms(last)}`, y: y(last) });
    }
    parts.push(...spread(labels, plot));
    return { parts, summary: latencySummary(seen, budget_ms) };
  }

  rows(history) {
    return history.map((second) => [clock(second.at_unix_ms, false), ms(second.p50_ms), ms(second.p99_ms), number(second.count)]);
  }
}

/** Requests of each second, stacked by tier. */
export class MixChart extends Chart {
  constructor(figure) {
    super(figure, TIERS.map((tier) => tier.code));
    this.below.append(...TIERS.map((tier) => legendEntry(tier)));
  }

  drawing(plot, history) {
    plot = { ...plot, right: plot.right + RIGHT - 12 };
    const totals = history.map((second) => TIERS.reduce((sum, tier) => sum + countOf(second, tier), 0));
    const top = ceiling(Math.max(...totals, 1), true);
    const y = (value) => plot.bottom - (value / top) * (plot.bottom - plot.top);
    const step = (plot.right - plot.left) / history.length;
    const columns = history.map((second, index) => column(second, plot.left + index * step, step, y));
    const sums = TIERS.map((tier) => [tier, history.reduce((sum, second) => sum + countOf(second, tier), 0)]);
    sums.forEach(([tier, sum]) => say(this.below.querySelector(`[data-tier="${tier.code}"] b`), number(sum)));
    const told = sums.map(([tier, sum]) => `${tier.code} ${sum}`).join(", ");
    return { parts: [patterns(), ...axes(plot, top, y), ...columns], summary: `Requests of the last minute by tier: ${told}.` };
  }

  rows(history) {
    return history.map((second) => [clock(second.at_unix_ms, false), ...TIERS.map((tier) => number(countOf(second, tier)))]);
  }
}

function latencySummary(seen, budget_ms) {
  if (seen.length === 0) return "No request was ranked in the last minute.";
  const highest = Math.max(...seen.map((second) => second.p99_ms));
  const over = budget_ms === null ? 0 : seen.filter((second) => second.p99_ms > budget_ms).length;
  const against = budget_ms === null ? "no budget is known" : `${over} of ${seen.length} seconds above the budget of ${ms(budget_ms)}`;
  return `Ranking in the last minute: highest P99 of a second ${ms(highest)}; ${against}.`;
}

function countOf(second, tier) {
  return second.by_tier[tier.code] ?? 0;
}

/** The next round number: the scale changes in steps and not with every request. */
function ceiling(value, isWhole = false) {
  const power = 10 ** Math.floor(Math.log10(value));
  const found = STEPS.find((step) => step * power >= value * 1.05) ?? 20;
  return isWhole ? Math.max(2, Math.ceil(found * power)) : found * power;
}

function axes(plot, top, y) {
  const digits = top < 2 ? 1 : 0;
  const parts = [0, top / 2, top].flatMap((value) => [
    horizontal(plot, y(value), "grid"),
    drawn("text", { x: plot.left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, digits)),
  ]);
  parts.push(drawn("text", { x: plot.left, y: plot.bottom + 15 }, "60 s ago"));
  parts.push(drawn("text", { x: plot.right, y: plot.bottom + 15, "text-anchor": "end" }, "now"));
  return parts;
}

function horizontal(plot, y, kind) {
  return drawn("line", { x1: plot.left, x2: plot.right, y1: y, y2: y, class: kind });
}

/** A line with gaps where nothing was seen; a point alone is a dot. */
function polyline(plot, values, y, kind) {
  const step = (plot.right - plot.left) / Math.max(1, values.length - 1);
  const runs = [];
  values.forEach((value, index) => {
    if (value === null) return;
    if (index === 0 || values[index - 1] === null) runs.push([]);
    runs.at(-1).push([plot.left + index * step, y(value)]);
  });
  return runs.map((run) =>
    run.length === 1
      ? drawn("circle", { cx: run[0][0], cy: run[0][1], r: 2.2, class: `dot ${kind}` })
      : drawn("polyline", { points: run.map((point) => point.map((part) => part.toFixed(1)).join(",")).join(" "), class: `line ${kind}` }),
  );
}

/** Labels at the right end, pushed apart where they would overlap. */
function spread(labels, plot) {
  labels.sort((one, other) => one.y - other.y);
  labels.forEach((label, index) => {
    if (index > 0) label.y = Math.max(label.y, labels[index - 1].y + LABEL_GAP);
  });
  labels.toReversed().forEach((label, index, upwards) => {
    label.y = Math.min(label.y, index === 0 ? plot.bottom : upwards[index - 1].y - LABEL_GAP);
  });
  return labels.map(({ kind, text, y }) => drawn("text", { x: plot.right + 6, y: y + 4, class: `end ${kind}` }, text));
}

function column(second, x, step, y) {
  let sum = 0;
  const group = drawn("g");
  for (const tier of TIERS) {
    const count = countOf(second, tier);
    if (count === 0) continue;
    const height = y(sum) - y(sum + count);
    group.append(drawn("rect", { x: x + 0.5, width: Math.max(1, step - 1), y: y(sum + count), height, ...paintOf(tier) }));
    sum += count;
  }
  const told = TIERS.map((tier) => `${tier.code} ${countOf(second, tier)}`).join(", ");
  group.append(drawn("title", {}, `${clock(second.at_unix_ms, false)}: ${told}`));
  return group;
}

/** How a tier is filled; the address of a pattern is the document's, which a style sheet's is not. */
function paintOf({ code }) {
  const pattern = { JOINED: "url(#hatch-joined)", FULL: "url(#hatch-full)" }[code];
  return pattern ? { fill: pattern } : { class: `tier-${code}` };
}

/** Two tiers are hatched, so that the mix can be read without its colours. */
function patterns() {
  const hatch = (id, angle, tier) =>
    drawn(
      "pattern",
      { id, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${angle})` },
      drawn("rect", { width: 5, height: 5, class: `hatch-ground-${tier}` }),
      drawn("rect", { width: 2, height: 5, class: `hatch-line-${tier}` }),
    );
  return drawn("defs", {}, hatch("hatch-joined", 45, "JOINED"), hatch("hatch-full", -45, "FULL"));
}

function legendEntry(tier) {
  const swatch = drawn("svg", { width: 12, height: 12, "aria-hidden": "true" }, drawn("rect", { width: 12, height: 12, ...paintOf(tier) }));
  return element("span", { "data-tier": tier.code }, swatch, ` ${tier.code} `, element("b", {}, NONE));
}

function tableRow([head, ...cells]) {
  const row = element("tr", {}, element("th", { scope: "row" }, head));
  row.append(...cells.map((cell) => element("td", { class: "number" }, cell)));
  return row;
}
