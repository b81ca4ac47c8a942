/** What the address says: the hash is the page's only state worth sharing. */

export const FILTERS = ["all", "slow", "fallback", "declined", "error"];

/** `{view: "trace", traceId}` or `{view: "overview", filter}`; what is unknown is the overview. */
export function routeOf(hash) {
  const trace = /^#\/trace\/(.+)$/.exec(hash);
  if (trace) return { view: "trace", traceId: decoded(trace[1]) };
  const filter = /^#\/requests\/(\w+)$/.exec(hash)?.[1];
  return { view: "overview", filter: FILTERS.includes(filter) ? filter : "all" };
}

/** The hash of the overview with a filter. */
export function overviewHash(filter) {
  return filter === "all" ? "#/" : `#/requests/${filter}`;
}

/** The hash of one request. */
export function traceHash(traceId) {
  return `#/trace/${encodeURIComponent(traceId)}`;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
