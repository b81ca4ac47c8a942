/** One request: what happened in a sentence, its waterfall, and the details of what is chosen. */

import { Refused, ask } from "./ask.js";
import { byId, element, fill, say } from "./dom.js";
import { NONE, clock, ms, plain, spare, unbroken } from "./format.js";
import { traceHash } from "./routes.js";
import { Waterfall, isFollowedByMuch } from "./waterfall.js";

const COPIED_MS = 2500;

/** The view of a request. */
export class TraceView {
  #waterfall = new Waterfall(byId("waterfall-box"));
  #traceId = "";
  #shown = null;
  #shownText = "";

  /** Called with the id when "slowest" has become one: what is read must not change under the reader. */
  onFound = () => {};

  constructor() {
    this.#waterfall.onChoose = showSpan;
    byId("copy").addEventListener("click", () => this.#copy());
    byId("scales").addEventListener("change", () => this.#draw());
  }

  /** Come into view for a trace, or for "slowest"; `backTo` is where Escape and the link lead. */
  open(traceId, backTo) {
    this.#traceId = traceId;
    this.#shown = null;
    this.#shownText = "";
    this.#waterfall.clear();
    showSpan(null);
    byId("trace").hidden = false;
    byId("trace-body").hidden = true;
    byId("back").href = backTo;
    say(byId("sentence"), "Loading…");
    say(byId("trace-note"), "");
    document.querySelector('#scales [value="request"]').checked = true;
    document.title = `Trace ${traceId.slice(0, 8)} · RelayGR console`;
    window.scrollTo(0, 0);
    byId("sentence").focus({ preventScroll: true });
  }

  close() {
    byId("trace").hidden = true;
  }

  /** Ask and show, once: a trace grows while its spans come in. */
  async refresh(signal) {
    try {
      const trace = await ask(`api/requests/${encodeURIComponent(this.#traceId)}`, signal);
      if (this.#traceId !== trace.request.trace_id) this.onFound((this.#traceId = trace.request.trace_id));
      say(byId("trace-note"), noteOf(trace.request));
      const text = JSON.stringify(trace);
      if (text === this.#shownText) return;
      this.#shownText = text;
      this.#show(trace);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#showUnknown();
    }
  }

  #show(trace) {
    this.#shown = trace;
    const { request } = trace;
    byId("trace-body").hidden = false;
    say(byId("sentence"), unbroken(request.sentence));
    byId("sentence").classList.toggle("is-bad", request.is_late || request.is_error);
    say(byId("trace-id"), request.trace_id);
    document.title = `Trace ${request.trace_id.slice(0, 8)} · RelayGR console`;
    byId("as-text").href = `api/requests/${encodeURIComponent(request.trace_id)}/text`;
    byId("scales").hidden = !isFollowedByMuch(trace);
    byId("psi-key").hidden = trace.links.length === 0;
    showRequest(trace);
    this.#draw();
  }

  #draw() {
    const isWhole = byId("scales").hidden || document.querySelector("#scales :checked").value === "whole";
    if (this.#shown !== null) this.#waterfall.show(this.#shown, isWhole);
  }

  #showUnknown() {
    if (this.#shown !== null) {
      say(byId("trace-note"), "The console has given this trace up in favour of newer ones; this is what was last seen of it.");
      return;
    }
    const isSlowest = this.#traceId === "slowest";
    say(byId("sentence"), isSlowest ? "No request has been ranked yet." : `No trace ${this.#traceId} is known here.`);
    say(
      byId("trace-note"),
      isSlowest
        ? "Send one: relaygr recommend --user 42. It shows here by itself."
        : "A new one shows here by itself within seconds of its request; an old one may have been given up in favour of newer ones.",
    );
  }

  async #copy() {
    const isCopied = await copied(byId("trace-id"));
    say(byId("copied"), isCopied ? "Copied" : "Selected; copy it with Ctrl-C");
    setTimeout(() => say(byId("copied"), ""), COPIED_MS);
  }
}

function noteOf(request) {
  if (request.missing.length === 0) return "";
  return `Incomplete: ${request.missing.join(", ")} not seen. Spans come within seconds; if they do not, that process sent none.`;
}

function showRequest({ request, links }) {
  const decision = request.reason ? `${request.decision}: ${request.reason}` : request.decision;
  const facts = [
    ["Request", request.request_id || NONE],
    ["Started", clock(request.started_unix_ms)],
    ["In UTC", new Date(request.started_unix_ms).toISOString()],
    ["Tier", request.tier || NONE],
    ["Decision", decision],
    ["Fallback", request.fallback || "none"],
    ["Rank", ms(request.rank_ms)],
    ["Budget", ms(request.budget_ms)],
    ["To spare", request.is_late ? `▲ ${spare(request)}, late` : spare(request)],
    ["End to end", ms(request.end_to_end_ms)],
    ["Instance", request.instance || NONE],
  ];
  const elsewhere = [...new Set(links.map((link) => link.from_trace_id))].filter((id) => id !== request.trace_id);
  fill(byId("request-details"), JSON.stringify([facts, elsewhere]), () => [
    element("h3", {}, "Request"),
    listOf(facts),
    ...elsewhere.map((id) => element("p", {}, "Its psi was made in trace ", element("a", { href: traceHash(id) }, `${id.slice(0, 8)}…`), ".")),
  ]);
}

function showSpan(bar) {
  const box = byId("span-details");
  box.hidden = bar === null;
  if (bar === null) return fill(box, "", () => []);
  const facts = [
    ["Process", bar.lane],
    ["Starts", ms(bar.start_ms)],
    ["Takes", ms(bar.length_ms)],
    ["Ends", ms(bar.start_ms + bar.length_ms)],
    ["Failed", bar.is_error ? "yes" : "no"],
    ["Span id", bar.span_id],
  ];
  const attributes = Object.entries(bar.attributes).sort(([one], [other]) => one.localeCompare(other));
  fill(box, JSON.stringify(bar), () => [
    element("h3", {}, bar.name),
    listOf(facts),
    element("h4", {}, "Attributes"),
    attributes.length === 0 ? element("p", {}, "None.") : listOf(attributes.map(([name, value]) => [name, plain(value)]), "attributes"),
  ]);
  box.scrollIntoView({ block: "nearest" });
}

function listOf(facts, kind = "") {
  const list = element("dl", { class: `facts ${kind}` });
  list.append(...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  return list;
}

/** Copy an element's text; where the browser forbids it (a page not from this machine, without TLS), select it. */
async function copied(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    return true;
  } catch {
    document.getSelection().selectAllChildren(node);
    return false;
  }
}
