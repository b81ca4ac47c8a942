/** The table of requests: filters, rows that open a waterfall, and the way through them by keyboard. */

import { ask } from "./ask.js";
import { byId, element, fill, reconcile, say } from "./dom.js";
import { NONE, clock, ms, number, spare } from "./format.js";
import { traceHash } from "./routes.js";
import { EMPTY } from "./words.js";

const LIMIT = 100;
const HEADS = ["Started", "Tier", "Decision", "Rank", "To spare", "End to end", "Instance", "What happened"];
const NUMBERS = ["Rank", "To spare", "End to end"];

/**
 * One row for each request, newest first.
 *
 * The table is one stop for Tab: the arrows go from row to row, and Enter opens one.
 */
export class RequestTable {
  #body = byId("requests").tBodies[0];
  #filter = "all";
  #cameFrom = null;

  /** Called with a filter when one is chosen. */
  onFilter = () => {};

  constructor() {
    byId("filters").addEventListener("change", (event) => this.onFilter(event.target.value));
    this.#body.addEventListener("keydown", (event) => this.#step(event));
    this.#body.addEventListener("click", openRow);
    this.#body.addEventListener("focusin", (event) => this.#makeStop(event.target.closest("tr")));
  }

  /** Show what a filter lets through, and go back to the row of a trace that was looked at. */
  open(filter, cameFrom) {
    if (filter !== this.#filter) this.#body.replaceChildren();
    this.#filter = filter;
    document.querySelector(`#filters [value="${filter}"]`).checked = true;
    this.#cameFrom = cameFrom;
    if (cameFrom !== null) this.#return();
  }

  /** Ask and show, once. */
  async refresh(signal) {
    const filter = this.#filter;
    const { requests } = await ask(`api/requests?filter=${filter}&limit=${LIMIT}`, signal);
    if (filter === this.#filter) this.#show(requests);
  }

  #show(requests) {
    reconcile(this.#body, requests, (row) => row.trace_id, makeRow, updateRow);
    byId("requests").hidden = requests.length === 0;
    const empty = byId("no-requests");
    empty.hidden = requests.length > 0;
    const [text, command] = EMPTY[this.#filter];
    fill(empty, this.#filter, () => [text, ...(command ? [element("code", {}, command)] : [])]);
    const most = requests.length === LIMIT ? `the newest ${LIMIT}` : `${number(requests.length)}`;
    say(byId("requests-caption"), `Newest first, ${most}. ↑ ↓ from row to row, Enter opens.`);
    if (this.#body.querySelector('a[tabindex="0"]') === null) this.#makeStop(this.#body.rows[0]);
  }

  #return() {
    const row = this.#body.querySelector(`[data-key="${CSS.escape(this.#cameFrom)}"]`);
    (row?.querySelector("a") ?? byId("requests-heading")).focus({ preventScroll: true });
  }

  #step(event) {
    const rows = [...this.#body.rows];
    const at = rows.indexOf(event.target.closest("tr"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    rows[to]?.querySelector("a").focus();
  }

  /** Make a row the one that Tab comes to. */
  #makeStop(row) {
    this.#body.querySelectorAll('a[tabindex="0"]').forEach((link) => (link.tabIndex = -1));
    if (row) row.querySelector("a").tabIndex = 0;
  }
}

function makeRow(request) {
  const link = element("a", { href: traceHash(request.trace_id), tabindex: "-1" });
  const cells = HEADS.map((head) => {
    const kind = NUMBERS.includes(head) ? "number" : `cell-${head.toLowerCase().replaceAll(" ", "-")}`;
    return element("td", { role: "cell", "data-head": head, class: kind });
  });
  cells[0].append(link);
  return element("tr", { role: "row" }, ...cells);
}

function updateRow(row, request) {
  row.classList.toggle("is-bad", request.is_late || request.is_error);
  const [started, tier, decision, rank, left, endToEnd, instance, happened] = row.cells;
  say(started.firstChild, clock(request.started_unix_ms));
  started.firstChild.setAttribute("aria-label", `${clock(request.started_unix_ms)}: ${request.sentence}`);
  fill(tier, request.tier, () => [request.tier ? element("span", { class: `badge of-${request.tier}` }, request.tier) : NONE]);
  say(decision, request.decision);
  say(rank, ms(request.rank_ms));
  say(left, request.is_late ? `▲ ${spare(request)}` : spare(request));
  say(endToEnd, ms(request.end_to_end_ms));
  say(instance, request.instance || NONE);
  const marks = [request.is_error && "ERROR", request.is_late && "LATE"].filter(Boolean);
  fill(happened, JSON.stringify([marks, request.sentence]), () => [
    ...marks.flatMap((mark) => [element("strong", { class: "mark" }, mark), " "]),
    request.sentence,
  ]);
}

/** A click anywhere in a row opens it, unless it ended a selection of text. */
function openRow(event) {
  const link = event.target.closest("tr")?.querySelector("a");
  if (!link || event.target.closest("a") || String(document.getSelection())) return;
  link.click();
}
