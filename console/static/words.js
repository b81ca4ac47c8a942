/** The words of the field that the page explains. */

export const TIERS = [
  { code: "DEVICE", meaning: "on the device" },
  { code: "DRAM", meaning: "reloaded from DRAM" },
  { code: "JOINED", meaning: "in production; ranking waited" },
  { code: "FULL", meaning: "not there: full inference" },
];

export const DECISIONS = [
  { code: "ADMITTED", meaning: "sent a pre-infer" },
  { code: "NOT_AT_RISK", meaning: "saw no need of one" },
  { code: "DECLINED", meaning: "had no room or time for one" },
  { code: "UNKNOWN", meaning: "was not asked or not heard" },
];

/** What stands in place of a table of requests that has none, and what to do next. */
export const EMPTY = {
  all: ["No requests yet. Send one: ", "relaygr recommend --user 42"],
  slow: ["No request kept here went over its budget."],
  fallback: ["Of the requests kept here, none was ranked in full without the trigger having decided so."],
  declined: ["The trigger declined no request kept here."],
  error: ["No request kept here failed."],
};
