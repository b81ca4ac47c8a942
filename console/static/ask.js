/** Asks the console's API, and keeps asking once a second while somebody looks. */

const PERIOD_MS = 1000;
const TIMEOUT_MS = 5000;

/** The console answered, and said no: the request is unknown or malformed. */
export class Refused extends Error {}

/** The console did not answer, or not with an answer. */
export class Silent extends Error {}

/**
 * GET a path, as JSON.
 *
 * Throws Refused, Silent, or an AbortError when `signal` says that nobody waits any more.
 */
export async function ask(path, signal) {
  const patience = AbortSignal.timeout(TIMEOUT_MS);
  try {
    const response = await fetch(path, { signal: AbortSignal.any([signal, patience]), cache: "no-store" });
    if (response.status === 400 || response.status === 404) throw new Refused((await response.json()).error);
    if (!response.ok) throw new Silent(`it answered ${response.status}`);
    return await response.json();
  } catch (error) {
    if (error instanceof Refused || error instanceof Silent || signal.aborted) throw error;
    if (patience.aborted) throw new Silent(`nothing within ${TIMEOUT_MS / 1000} s`);
    throw new Silent(error instanceof TypeError ? "no connection" : "its answer is not what it should be");
  }
}

/** Calls `once` every second while the page is visible and not held. */
export class Poller {
  #once;
  #onAnswer;
  #onSilence;
  #timer = 0;
  #flight = new AbortController();

  isHeld = false;

  /**
   * `once(signal)` asks and shows; `onAnswer()` follows when it got its answer,
   * `onSilence(why)` when it did not.
   */
  constructor(once, onAnswer, onSilence) {
    this.#once = once;
    this.#onAnswer = onAnswer;
    this.#onSilence = onSilence;
    document.addEventListener("visibilitychange", () => this.#resume());
  }

  /** Ask now, whatever is on its way; also when held. */
  async now() {
    clearTimeout(this.#timer);
    this.#flight.abort();
    const flight = (this.#flight = new AbortController());
    try {
      await this.#once(flight.signal);
      if (!flight.signal.aborted) this.#onAnswer();
    } catch (error) {
      if (flight.signal.aborted) return;
      if (!(error instanceof Silent)) console.error(error);
      this.#onSilence(error instanceof Silent ? error.message : `the page failed to show it: ${error.message}`);
    }
    if (flight === this.#flight) this.#again();
  }

  /** Stop asking until released. */
  hold(isHeld) {
    this.isHeld = isHeld;
    this.#resume();
  }

  #resume() {
    clearTimeout(this.#timer);
    if (!document.hidden && !this.isHeld) this.now();
  }

  #again() {
    clearTimeout(this.#timer);
    if (!document.hidden && !this.isHeld) this.#timer = setTimeout(() => this.now(), PERIOD_MS);
  }
}
