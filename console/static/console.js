/** Ties address, views and polling together; see routes.js, overview.js, trace.js and ask.js. */

import { Poller } from "./ask.js";
import { byId, say } from "./dom.js";
import { clock } from "./format.js";
import { Overview } from "./overview.js";
import { overviewHash, routeOf, traceHash } from "./routes.js";
import { TraceView } from "./trace.js";

const RECOVERED_MS = 4000;

const overview = new Overview((filter) => {
  // In place of the present entry: back leads to where one was, not through every filter tried.
  history.replaceState(null, "", overviewHash(filter));
  follow();
});
const traceView = new TraceView();
const poller = new Poller((signal) => view.refresh(signal), answered, silent);

let view = overview;
let route = { view: "none" };
let lastOverview = { hash: "#/", scroll_y: 0, isVisited: false };
let silentSince_ms = null;

/** Show what the address says. */
function follow() {
  const cameFrom = route.view === "trace" ? route.traceId : null;
  if (route.view === "overview" && !byId("overview").hidden) lastOverview.scroll_y = shownScroll_y;
  route = routeOf(location.hash);
  const isTrace = route.view === "trace";
  if (isTrace) {
    overview.close();
    view = traceView;
    traceView.open(route.traceId, lastOverview.hash);
  } else {
    traceView.close();
    view = overview;
    overview.open(route.filter, cameFrom);
    if (cameFrom !== null) window.scrollTo(0, lastOverview.scroll_y);
    lastOverview = { ...lastOverview, hash: overviewHash(route.filter), isVisited: true };
  }
  mark(byId("to-overview"), !isTrace);
  mark(byId("to-slowest"), isTrace && route.traceId === "slowest");
  poller.now();
}

function mark(link, isCurrent) {
  if (isCurrent) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

traceView.onFound = (traceId) => {
  history.replaceState(null, "", traceHash(traceId));
  route = routeOf(location.hash);
};

/** Where the overview was scrolled to; the browser has moved on by the time the address has changed. */
let shownScroll_y = 0;
addEventListener("scroll", () => {
  if (!byId("overview").hidden) shownScroll_y = scrollY;
}, { passive: true });

function goBack() {
  if (lastOverview.isVisited) history.back();
  else location.hash = lastOverview.hash;
}

function answered() {
  byId("pulse").classList.remove("is-bad");
  say(byId("pulse"), poller.isHeld ? `Paused at ${clock(Date.now(), false)}` : `Live, ${clock(Date.now(), false)}`);
  if (silentSince_ms === null) return;
  silentSince_ms = null;
  notify("The console answers again.", false);
  setTimeout(() => silentSince_ms === null && notify("", false), RECOVERED_MS);
}

function silent(why) {
  silentSince_ms ??= Date.now();
  byId("pulse").classList.add("is-bad");
  say(byId("pulse"), "No answer");
  notify(`The console has not answered since ${clock(silentSince_ms, false)} (${why}). What is shown is older; asking again every second.`, true);
}

function notify(text, isBad) {
  byId("notice").classList.toggle("is-bad", isBad);
  say(byId("notice"), text);
}

function hold() {
  const isHeld = !poller.isHeld;
  poller.hold(isHeld);
  byId("hold").setAttribute("aria-pressed", String(isHeld));
  say(byId("hold"), isHeld ? "Resume" : "Pause");
  if (isHeld) say(byId("pulse"), `Paused at ${clock(Date.now(), false)}`);
}

history.scrollRestoration = "manual";
addEventListener("hashchange", follow);
byId("hold").addEventListener("click", hold);
byId("skip").addEventListener("click", (event) => {
  // The hash is the address of a view here.
  event.preventDefault();
  byId("main").focus();
});
byId("back").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  goBack();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && route.view === "trace" && !event.defaultPrevented) goBack();
});
follow();
