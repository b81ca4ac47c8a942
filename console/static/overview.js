/** The state of the last minute: tiles, charts, shares, instances, and counters that must be zero. */

import { ask } from "./ask.js";
import { LatencyChart, MixChart } from "./chart.js";
import { byId, element, fill, reconcile, say } from "./dom.js";
import { NONE, age, bytes, ms, number, share } from "./format.js";
import { RequestTable } from "./requests.js";
import { DECISIONS, TIERS } from "./words.js";

const STALE_S = 15;
const BYTE_STATES = ["published", "staging", "quarantined", "doomed", "free"];

/** Everything but a single request. */
export class Overview {
  #latency = new LatencyChart(byId("latency"));
  #mix = new MixChart(byId("mix"));
  #requests = new RequestTable();

  /** `onFilter(filter)` is called when another filter is chosen. */
  constructor(onFilter) {
    this.#requests.onFilter = onFilter;
  }

  /** Come into view; `cameFrom` is the trace that was looked at before, if any. */
  open(filter, cameFrom) {
    byId("overview").hidden = false;
    document.title = "RelayGR console";
    this.#requests.open(filter, cameFrom);
  }

  close() {
    byId("overview").hidden = true;
  }

  /** Ask and show, once. */
  async refresh(signal) {
    const [overview] = await Promise.all([ask("api/overview", signal), this.#requests.refresh(signal)]);
    this.#show(overview);
  }

  #show(overview) {
    say(byId("window"), `${overview.window_s} s`);
    showTiles(overview);
    this.#latency.show(overview.history, overview.latency_ms.budget);
    this.#mix.show(overview.history);
    showShares("tiers", TIERS, overview.requests.by_tier);
    showShares("decisions", DECISIONS, overview.requests.by_decision);
    say(byId("fallbacks"), because("Full because", overview.requests.fallbacks));
    say(byId("declined"), because("Declined because", overview.requests.declined_reasons));
    showZeros(overview.must_be_zero);
    showInstances(overview.instances);
    showDram(overview.dram);
    showCollector(overview.collector);
    document.querySelectorAll(".scroll").forEach(makeReachable);
  }
}

function showTiles({ requests, latency_ms, survival }) {
  const { budget, rank, end_to_end } = latency_ms;
  const isOver = budget !== null && rank.p99 !== null && rank.p99 > budget;
  const tiles = [
    ["Requests", number(requests.count), `${number(requests.rate_hz, 2)} a second`],
    ["Rank P50", ms(rank.p50), `of ${number(rank.count)}`],
    ["Rank P99", ms(rank.p99), budget === null ? "budget not known" : `${isOver ? "over" : "within"} the budget of ${ms(budget)}`, isOver],
    ["Late", number(requests.late), `${share(requests.late, requests.count)} of requests`, requests.late > 0],
    ["Errors", number(requests.errors), `${share(requests.errors, requests.count)} of requests`, requests.errors > 0],
    ["Survival", share(survival.survived, survival.admitted), `${number(survival.survived)} of ${number(survival.admitted)} admitted found psi`],
    ["End to end P50", ms(end_to_end.p50), `P99 ${ms(end_to_end.p99)}`],
  ];
  reconcile(byId("tiles"), tiles, ([name]) => name, makeTile, updateTile);
}

function makeTile([name]) {
  return element("div", { class: "tile" }, element("dt", {}, name), element("dd", { class: "value" }), element("dd", { class: "aside" }));
}

function updateTile(tile, [, value, aside, isBad]) {
  tile.classList.toggle("is-bad", Boolean(isBad));
  say(tile.children[1], isBad ? `${value} ▲` : value);
  say(tile.children[2], aside);
}

function showShares(id, known, counts) {
  const unexplained = Object.keys(counts).filter((code) => !known.some((one) => one.code === code));
  const rows = [...known, ...unexplained.map((code) => ({ code, meaning: "" }))];
  const whole = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const shown = rows.map((row) => ({ ...row, count: counts[row.code] ?? 0, whole }));
  reconcile(byId(id).tBodies[0], shown, (row) => row.code, makeShare, updateShare);
}

function makeShare({ code, meaning }) {
  const bar = element("span", { class: `share-bar of-${code}`, "aria-hidden": "true" });
  const cells = [element("td", { class: "muted" }, meaning), element("td", { class: "number" })];
  return element("tr", {}, element("th", { scope: "row" }, code), ...cells, element("td", { class: "number" }, element("span"), bar));
}

function updateShare(row, { count, whole }) {
  say(row.cells[2], number(count));
  say(row.cells[3].firstChild, share(count, whole));
  row.cells[3].lastChild.style.width = `${whole > 0 ? (100 * count) / whole : 0}%`;
}

function because(lead, counts) {
  const told = Object.entries(counts).sort(([, one], [, other]) => other - one);
  return told.length === 0 ? "" : `${lead}: ${told.map(([reason, count]) => `${reason} ${number(count)}`).join(", ")}.`;
}

/** Quiet while all are zero; a list that says what to do when one is not. */
function showZeros(counters) {
  const broken = counters.filter((counter) => counter.value !== 0);
  const box = byId("zeros");
  box.classList.toggle("is-bad", broken.length > 0);
  fill(box, JSON.stringify([broken, counters.length]), () => {
    if (counters.length === 0) return [element("p", {}, "No process has reported its counters that must be zero yet.")];
    if (broken.length === 0) return [element("p", {}, `✓ All ${number(counters.length)} counters that must be zero are zero.`)];
    const lines = broken.map(({ instance, event, value }) => element("li", {}, element("b", {}, `${event} = ${number(value)}`), ` on ${instance}`));
    const advice = "Keep that process’s log and its traces: this points at a bug or at bad memory, whatever the load.";
    return [element("p", {}, element("strong", {}, "✕ Counters that must be zero are not")), element("ul", {}, ...lines), element("p", {}, advice)];
  });
}

function showInstances(instances) {
  const body = byId("instances").tBodies[0];
  if (instances.length === 0) return showNothing(body, 8, "No process has reported yet. Start them with OTLP_ENDPOINT set to this console’s, or: make up");
  reconcile(body, instances, (one) => `${one.service}/${one.id}`, () => rowOf(8, 2), (row, one) => {
    sayCells(row, [one.id, one.service, null, count(one.entries), count(one.open_tickets), ms(one.backlog_ms), ms(one.loop_lag_p99_ms), seen(one.seen_s_ago)]);
    row.classList.toggle("is-stale", one.seen_s_ago > STALE_S);
    showPages(row.cells[2], one.device);
  });
}

function showPages(cell, device) {
  if (device === null) return fill(cell, "", () => [NONE]);
  const { used_pages, reserved_pages, total_pages } = device;
  const of = total_pages ? ` of ${number(total_pages)}` : "";
  // Reserved pages are those of the used ones that must not be evicted.
  const parts = [["reserved", reserved_pages], ["used", used_pages - reserved_pages]];
  const text = `${number(used_pages)}${of} used, ${number(reserved_pages)} of these reserved`;
  fill(cell, JSON.stringify(device), () => (total_pages ? [occupancy(parts, total_pages), text] : [text]));
}

function showDram(expanders) {
  const body = byId("dram").tBodies[0];
  if (expanders.length === 0) return showNothing(body, 11, "No expander has reported yet; without one, psi that leaves the device is gone.");
  reconcile(body, expanders, (one) => one.id, () => rowOf(11, 1), (row, one) => {
    const sizes = BYTE_STATES.map((state) => one.bytes[state] ?? 0);
    sayCells(row, [one.id, null, ...sizes.map(bytes), count(one.entries), count(one.pins), count(one.owners), seen(one.seen_s_ago)]);
    row.classList.toggle("is-stale", one.seen_s_ago > STALE_S);
    const whole = sizes.reduce((sum, size) => sum + size, 0);
    const taken = BYTE_STATES.slice(0, -1).map((state, index) => [state, sizes[index]]);
    fill(row.cells[1], JSON.stringify(sizes), () => [occupancy(taken, whole), `${share(whole - sizes.at(-1), whole)} taken`]);
  });
}

/** A bar of parts in a whole; the numbers beside it say the same. */
function occupancy(parts, whole) {
  const bar = element("span", { class: "occupancy", "aria-hidden": "true" });
  for (const [kind, size] of parts) {
    const piece = element("span", { class: `piece-${kind}` });
    piece.style.width = `${whole > 0 ? (100 * size) / whole : 0}%`;
    bar.append(piece);
  }
  return bar;
}

function showNothing(body, columns, text) {
  const row = () => element("tr", {}, element("td", { colspan: columns, class: "empty" }, text));
  reconcile(body, [text], () => "nothing", row, () => {});
}

/** A row whose first cell heads it; the first `texts` cells and the third hold text, the others numbers. */
function rowOf(cells, texts) {
  const row = element("tr", {}, element("th", { scope: "row" }));
  for (let index = 1; index < cells; index += 1) row.append(element("td", { class: index > texts ? "number" : "" }));
  return row;
}

function sayCells(row, texts) {
  texts.forEach((text, index) => text === null || say(row.cells[index], text));
}

function count(value) {
  return value === null || value === undefined ? NONE : number(value);
}

function seen(seen_s_ago) {
  return seen_s_ago > STALE_S ? `silent, ${age(seen_s_ago)}` : age(seen_s_ago);
}

function showCollector({ traces, spans, dropped_spans, metric_points }) {
  const lost = dropped_spans > 0 ? `; ${number(dropped_spans)} spans dropped: more came than are kept` : "";
  say(byId("collector"), `Kept: ${number(traces)} traces. Received: ${number(spans)} spans, ${number(metric_points)} metric points${lost}.`);
}

/** A box that scrolls is reachable by keyboard; one that does not is no stop on the way. */
function makeReachable(box) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}
