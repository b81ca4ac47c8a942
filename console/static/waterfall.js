/**
 * Draws a trace as lanes of bars over one axis of time.
 *
 * Every bar is a button with its label as text beside or inside it, so that it can be read at
 * any width; the lines and arrows lie in one drawing between bars and labels. The drawing has
 * a least width and scrolls inside its box, with the lanes' names staying in sight.
 */

import { drawn, element } from "./dom.js";
import { ms, number } from "./format.js";

const WIDTH_LEAST = 640;
const PAD = 10;
const TICK_GAP = 84;
const LABEL_GAP = 5;
const BAR_LEAST = 3;
const ROOM_AFTER = 1.03;
/** The scale follows the request when what followed would take more than this share of it. */
const FOLLOWED_MUCH = 1.15;
/** A budget that ends later than this many lengths of the request is named at the edge, and not drawn to scale. */
const BUDGET_MOST = 3;
/** How far an arrow leaves and meets a bar upright, and how far inside the bar's ends. */
const ARROW_UPRIGHT = 14;
const ARROW_INSET = 4;

/** One trace's waterfall inside a box of the page. */
export class Waterfall {
  #box;
  #trace = null;
  #isWhole = false;
  #width = 0;
  #chosen = null;

  /** Called with a bar, or null, when another is chosen. */
  onChoose = () => {};

  constructor(box) {
    this.#box = box;
    new ResizeObserver(() => this.#widthChanged()).observe(box);
    box.addEventListener("click", (event) => this.#toggle(event.target.closest(".bar")));
    box.addEventListener("keydown", (event) => this.#step(event));
    box.addEventListener("focusin", (event) => this.#makeStop(event.target.closest(".bar")));
  }

  /** Draw a trace; `isWhole` shows also what went on after the answer. */
  show(trace, isWhole) {
    if (this.#trace?.request.trace_id !== trace?.request.trace_id) this.#chosen = null;
    this.#trace = trace;
    this.#isWhole = isWhole;
    this.#draw();
  }

  /** Nothing to show. */
  clear() {
    this.#trace = null;
    this.#chosen = null;
    this.#box.replaceChildren();
  }

  #widthChanged() {
    if (this.#box.clientWidth !== this.#width) this.#draw();
  }

  #draw() {
    this.#width = this.#box.clientWidth;
    if (this.#trace === null || this.#width === 0) return;
    const focused = document.activeElement?.closest?.(".bar")?.dataset.spanId;
    const scrolled = this.#box.scrollLeft;
    const width = Math.max(WIDTH_LEAST, this.#width);
    const extent_ms = extentOf(this.#trace, this.#isWhole);
    const x = (at_ms) => PAD + (at_ms / extent_ms) * (width - 2 * PAD);
    const canvas = element("div", { class: "waterfall" });
    canvas.style.width = `${width}px`;
    const lines = drawn("svg", { class: "lines", "aria-hidden": "true", width, height: 1 });
    canvas.append(scaleOf(x, width, extent_ms), ...marksOf(this.#trace, x, width, extent_ms));
    canvas.append(...this.#trace.lanes.map((lane) => laneOf(lane)), lines);
    this.#box.replaceChildren(canvas);
    placeBars(canvas, x, width, extent_ms);
    drawLines(lines, canvas, this.#trace, x, extent_ms);
    this.#box.scrollLeft = scrolled;
    this.#mark();
    this.#makeStop(this.#bar(focused) ?? this.#bar(this.#chosen) ?? canvas.querySelector(".bar"));
    if (focused) this.#bar(focused)?.focus({ preventScroll: true });
  }

  #bar(spanId) {
    return spanId ? this.#box.querySelector(`.bar[data-span-id="${CSS.escape(spanId)}"]`) : null;
  }

  #toggle(bar) {
    if (bar === null) return;
    this.#chosen = this.#chosen === bar.dataset.spanId ? null : bar.dataset.spanId;
    this.#mark();
    const bars = this.#trace.lanes.flatMap((lane) => lane.bars.map((one) => ({ ...one, lane: lane.name })));
    this.onChoose(bars.find((one) => one.span_id === this.#chosen) ?? null);
  }

  #mark() {
    for (const bar of this.#box.querySelectorAll(".bar")) {
      bar.setAttribute("aria-pressed", String(bar.dataset.spanId === this.#chosen));
    }
  }

  #step(event) {
    const bars = [...this.#box.querySelectorAll(".bar")];
    const at = bars.indexOf(event.target.closest(".bar"));
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const parent = this.#bar(bars[at].dataset.parentSpanId);
    const to = { ArrowDown: bars[at + 1], ArrowUp: bars[at - 1], Home: bars[0], End: bars.at(-1), ArrowLeft: parent };
    if (!(event.key in to)) return;
    event.preventDefault();
    to[event.key]?.focus();
  }

  #makeStop(bar) {
    if (!bar) return;
    for (const other of this.#box.querySelectorAll('.bar[tabindex="0"]')) other.tabIndex = -1;
    bar.tabIndex = 0;
  }
}

/** Whether work behind the answer goes on for so long that the request would be hard to see beside it. */
export function isFollowedByMuch(trace) {
  return extentOf(trace, true) > FOLLOWED_MUCH * extentOf(trace, false);
}

function extentOf(trace, isWhole) {
  const bars = trace.lanes.flatMap((lane) => lane.bars);
  const roots = bars.filter((bar) => bar.parent_span_id === "");
  const counted = isWhole || roots.length === 0 ? bars : roots;
  const ends = counted.map((bar) => bar.start_ms + bar.length_ms);
  const end_ms = Math.max(1e-3, ...ends);
  const deadline_ms = trace.deadline_ms ?? 0;
  return ROOM_AFTER * (deadline_ms > BUDGET_MOST * end_ms ? end_ms : Math.max(end_ms, deadline_ms));
}

function scaleOf(x, width, extent_ms) {
  const step = stepOf(extent_ms, (width - 2 * PAD) / TICK_GAP);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const axis = element("div", { class: "axis", "aria-hidden": "true" });
  for (let at_ms = 0; at_ms <= extent_ms; at_ms += step) {
    const tick = element("span", { class: "tick", "data-at-ms": at_ms }, `${number(at_ms, digits)} ms`);
    tick.style.left = `${x(at_ms)}px`;
    if (x(at_ms) < width - 48) axis.append(tick);
  }
  return axis;
}

function stepOf(extent_ms, ticks) {
  const least = extent_ms / ticks;
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((step) => step * power >= least);
}

/** The two moments that a relay is about, named above the lanes; each in a line of its own. */
function marksOf(trace, x, width, extent_ms) {
  const marks = [
    ["due", trace.rank_due_ms, "rank due"],
    ["deadline", trace.deadline_ms, `budget of ${ms(trace.request.budget_ms)} ends`],
  ];
  return marks
    .filter(([, at_ms]) => at_ms !== null)
    .map(([kind, at_ms, text]) => {
      const isBeyond = at_ms > extent_ms;
      const label = element("span", {}, `${text} at ${ms(at_ms)}${isBeyond ? " ▸" : ""}`);
      const at = isBeyond ? width : x(at_ms);
      const isLeft = at > width / 2;
      label.style[isLeft ? "right" : "left"] = `${isLeft ? width - at + LABEL_GAP : at + LABEL_GAP}px`;
      return element("p", { class: `moment ${kind}`, "data-at-ms": at_ms }, label);
    });
}

function laneOf(lane) {
  const name = lane.kind && !lane.name.startsWith(lane.kind) ? `${lane.name} (${lane.kind})` : lane.name;
  const rows = lane.bars.map((bar) => element("li", { class: "row" }, barOf(bar, name)));
  return element(
    "section",
    { class: "lane", "aria-label": name, "data-lane": lane.name },
    element("h3", { class: "lane-name" }, name),
    element("ol", { class: "rows" }, ...rows),
  );
}

function barOf(bar, lane) {
  const error = bar.is_error ? ", failed" : "";
  return element(
    "button",
    {
      type: "button",
      class: `bar kind-${bar.kind}${bar.is_error ? " is-bad" : ""}`,
      tabindex: "-1",
      "aria-pressed": "false",
      "aria-label": `${bar.label}, ${ms(bar.length_ms)}, from ${ms(bar.start_ms)}${error}, ${lane}`,
      "data-span-id": bar.span_id,
      "data-parent-span-id": bar.parent_span_id,
      "data-kind": bar.kind,
      "data-start-ms": bar.start_ms,
      "data-length-ms": bar.length_ms,
    },
    element("span", { class: "fill" }),
    element("span", { class: "label" }, bar.is_error ? "✕ " : "", element("b", {}, bar.label), ` ${ms(bar.length_ms)}`),
  );
}

/** Give each bar its place, and its label the first that has room: inside, right, left, or at the edge. */
function placeBars(canvas, x, width, extent_ms) {
  const bars = [...canvas.querySelectorAll(".bar")];
  for (const bar of bars) {
    if (Number(bar.dataset.startMs) > extent_ms) {
      bar.lastChild.append(`, at ${ms(Number(bar.dataset.startMs))} ▸`);
    }
  }
  const needed = bars.map((bar) => bar.lastChild.offsetWidth);
  bars.forEach((bar, index) => {
    const start_ms = Math.min(Number(bar.dataset.startMs), extent_ms);
    const end_ms = Math.min(Number(bar.dataset.startMs) + Number(bar.dataset.lengthMs), extent_ms);
    const left = Math.min(x(start_ms), width - PAD - BAR_LEAST);
    const right = Math.max(x(end_ms), left + BAR_LEAST);
    const label = labelAt(left, right, needed[index], width);
    const from = Math.min(left, label);
    bar.lastChild.classList.toggle("is-outside", label < left || label >= right);
    bar.style.left = `${from}px`;
    bar.style.width = `${Math.max(right, label + needed[index]) - from}px`;
    bar.firstChild.style.left = `${left - from}px`;
    bar.firstChild.style.width = `${right - left}px`;
    bar.lastChild.style.left = `${label - from}px`;
  });
}

function labelAt(left, right, needed, width) {
  if (needed + 2 * LABEL_GAP <= right - left) return left + LABEL_GAP;
  if (right + LABEL_GAP + needed <= width) return right + LABEL_GAP;
  if (left - LABEL_GAP - needed >= 0) return left - LABEL_GAP - needed;
  return width - needed;
}

/** Ticks, the two moments, and the arrows from what produced psi; measured, so after the bars have their places. */
function drawLines(lines, canvas, trace, x, extent_ms) {
  const { left, top, height } = canvas.getBoundingClientRect();
  lines.setAttribute("height", height);
  const below = canvas.querySelector(".axis").offsetHeight;
  const upright = (at_ms, kind) => lines.append(drawn("line", { x1: x(at_ms), x2: x(at_ms), y1: below, y2: height, class: kind }));
  for (const tick of canvas.querySelectorAll(".tick")) upright(Number(tick.dataset.atMs), "tick-line");
  if (trace.rank_due_ms !== null && trace.deadline_ms !== null) {
    const span = x(Math.min(trace.deadline_ms, extent_ms)) - x(trace.rank_due_ms);
    lines.prepend(drawn("rect", { x: x(trace.rank_due_ms), y: below, width: Math.max(0, span), height: height - below, class: "budget-area" }));
  }
  if (trace.rank_due_ms !== null) upright(trace.rank_due_ms, "due-line");
  if (trace.deadline_ms !== null && trace.deadline_ms <= extent_ms) upright(trace.deadline_ms, "deadline-line");
  lines.append(arrowhead());
  const placeOf = (spanId, part) => {
    const found = canvas.querySelector(`.bar[data-span-id="${CSS.escape(spanId)}"] .${part}`)?.getBoundingClientRect();
    return found && new DOMRect(found.x - left, found.y - top, found.width, found.height);
  };
  for (const { from_span_id, to_span_id } of trace.links) {
    const [source, target] = [placeOf(from_span_id, "fill"), placeOf(to_span_id, "fill")];
    if (!target) continue;
    const path = source ? arrowBetween(source, target) : arrowFromElsewhere(target, placeOf(to_span_id, "label"));
    const ends = { "data-from": from_span_id, "data-to": to_span_id };
    lines.append(drawn("path", { d: path, class: "psi-link", "marker-end": "url(#arrowhead)", ...ends }));
  }
}

/** From the end of one bar to where the other stood then; beside neither's label, and upright at both ends. */
function arrowBetween(source, target) {
  const isDown = target.y > source.y;
  const bend = isDown ? ARROW_UPRIGHT : -ARROW_UPRIGHT;
  const from = { x: source.right - 1, y: isDown ? source.bottom : source.top };
  const inset = Math.min(ARROW_INSET, target.width / 2);
  const x = Math.min(Math.max(from.x, target.left + inset), target.right - inset);
  const y = isDown ? target.top : target.bottom;
  return `M${from.x},${from.y} C${from.x},${from.y + bend} ${x},${y - bend} ${x},${y}`;
}

/** From the drawing's edge: what produced psi belongs to another trace. */
function arrowFromElsewhere(target, label) {
  const y = target.top + target.height / 2;
  return `M0,${y} L${Math.min(target.left, label.left) - 1},${y}`;
}

function arrowhead() {
  const head = drawn("path", { d: "M0,0 L7,3.5 L0,7 z", class: "psi-head" });
  const marker = { id: "arrowhead", markerWidth: 7, markerHeight: 7, refX: 6, refY: 3.5, orient: "auto", markerUnits: "userSpaceOnUse" };
  return drawn("defs", {}, drawn("marker", marker, head));
}
