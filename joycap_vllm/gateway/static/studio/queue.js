// What is under way: a few pictures at once, in the order they were added.

const MOST = 4; // at once; a browser opens six connections to one host

/** Runs jobs, a few at once; each can be cancelled while it waits or runs. */
export class Queue {
  #waiting = [];
  #running = new Map();
  #changed;

  /** @param changed Called after each change. */
  constructor(changed) {
    this.#changed = changed;
  }

  /** How many jobs wait or run. */
  get size() {
    return this.#waiting.length + this.#running.size;
  }

  /** Adds a job for `owner`, in place of one that it has; `run` is given an AbortSignal. */
  add(owner, run) {
    this.cancel(owner);
    this.#waiting.push({ owner, run });
    this.#next();
  }

  /** Whether `owner` has a job. */
  has(owner) {
    return this.#running.has(owner) || this.#waiting.some((job) => job.owner === owner);
  }

  /** Ends the job of `owner`, or all; those that ran end by an AbortError. */
  cancel(owner) {
    this.#waiting = this.#waiting.filter((job) => owner && job.owner !== owner);
    for (const [who, abort] of this.#running) {
      if (owner && who !== owner) continue;
      this.#running.delete(who);
      abort.abort();
    }
    this.#next();
  }

  #next() {
    while (this.#running.size < MOST && this.#waiting.length > 0) {
      const { owner, run } = this.#waiting.shift();
      const abort = new AbortController();
      this.#running.set(owner, abort);
      run(abort.signal).finally(() => {
        if (this.#running.get(owner) === abort) this.#running.delete(owner);
        this.#next();
      });
    }
    this.#changed();
  }
}

/** Waits; ends with an AbortError as soon as the signal says so. */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}
