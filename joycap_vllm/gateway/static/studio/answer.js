// One answer: its caption, its verdict, and the attempts it took.

import { sentence } from "/static/studio/api.js";
import { copy } from "/static/studio/files.js";

const BLANK = document.querySelector("#answer-template");

const PARTS = ["h3", ".chip", ".versions", ".which", ".older", ".newer", ".text", ".state", ".attempts", ".facts", ".dismiss", ".copy", ".save"];

/** The part of a picture's card that shows what one prompt brought, each time it was asked. */
export class Answer {
  #parts;
  #most = 1;
  #answered = 0;
  #versions = []; // the good captions: {caption, facts, taken}, the newest last
  #at = -1;

  /**
   * @param name The prompt's name.
   * @param actions {save, drop, changed}, called without a word.
   */
  constructor(name, { save, drop, changed }) {
    this.name = name;
    this.over = true;
    this.glitches = 0;
    this.changed = changed;
    this.element = BLANK.content.firstElementChild.cloneNode(true);
    this.#parts = Object.fromEntries(
      PARTS.map((which) => [which.replace(".", ""), this.element.querySelector(which)]),
    );
    this.#parts.copy.addEventListener("click", () => {
      copy(this.#parts.text.textContent, this.#parts.copy);
      this.taken();
    });
    this.#parts.save.addEventListener("click", save);
    this.#parts.dismiss.addEventListener("click", drop);
    this.#parts.older.addEventListener("click", () => this.#step(-1));
    this.#parts.newer.addEventListener("click", () => this.#step(1));
  }

  /** The good caption that is shown; null while there is none. */
  get caption() {
    return this.#versions[this.#at]?.caption ?? null;
  }

  /** Whether it shows a good caption that was neither copied nor downloaded. */
  get untaken() {
    return this.caption !== null && !this.#versions[this.#at].taken;
  }

  /** The caption that is shown was copied or downloaded. */
  taken() {
    if (this.caption !== null) this.#versions[this.#at].taken = true;
  }

  /** It is asked, perhaps again; a good caption stays until there is a new one. */
  ask(prompt, most) {
    this.over = false;
    this.#most = most;
    this.#answered = 0;
    this.#parts.h3.textContent = prompt.title;
    this.#parts.h3.title = prompt.text;
    this.#parts.dismiss.hidden = true;
    this.#parts.dismiss.setAttribute("aria-label", `Remove the answer to ${prompt.title}`);
    this.#parts.attempts.replaceChildren();
    this.element.setAttribute("aria-label", prompt.title);
    this.element.setAttribute("aria-busy", "true");
    this.element.classList.remove("stays");
    if (this.caption === null) this.#parts.copy.disabled = true;
    this.#mark("asking", "");
    this.#say("Asking…");
  }

  /** Other prompts are asked now: it stays as it is, and can be removed. */
  keep() {
    this.#parts.dismiss.hidden = false;
    this.#parts.attempts.replaceChildren();
    this.#say("");
  }

  /** What has come of an answer so far, before it is judged. */
  come(text) {
    if (this.over) return;
    this.#say(text.trimStart());
    this.#parts[this.caption === null ? "text" : "state"].classList.add("coming");
  }

  /** An answer came: shown at once where it was a glitch, since it is asked again. */
  attempt(event) {
    this.#answered += 1;
    if (event.glitch === null) return;
    this.glitches += 1;
    this.#add(event);
    if (this.#answered < this.#most) {
      this.#mark("asking again", "glitched");
      this.#say(`Asking again: attempt ${this.#answered + 1} of at most ${this.#most}…`);
    }
  }

  /** No server answers for now; empty words: it is only slow. */
  wait(why) {
    if (!this.over && why) this.#say(`Waiting for a server: ${why}`);
  }

  /** The end: a caption, a glitch that stayed, or a refusal. */
  finish(event) {
    this.#end();
    this.#parts.attempts.replaceChildren();
    if (event.attempts.some((attempt) => attempt.glitch || attempt.error)) {
      event.attempts.forEach((attempt) => this.#add(attempt));
    }
    if (event.outcome === "failed") this.fail(event.why);
    else if (event.outcome === "ok") {
      this.#versions.push({ caption: event.caption, facts: facts(event), taken: false });
      this.#show(this.#versions.length - 1);
    } else if (this.caption !== null) this.#stay("No attempt was good");
    else this.#showBest(event);
  }

  /** It ended without an answer. */
  fail(why) {
    this.#end();
    if (this.caption !== null) {
      this.#stay(sentence(why).replace(/\.$/, ""));
      return;
    }
    this.#mark("failed", "failed");
    this.#say(sentence(why));
  }

  /** It was cancelled before it had ended. */
  cancel() {
    if (this.over) return;
    this.#end();
    if (this.caption !== null) {
      this.#stay("Cancelled");
      return;
    }
    this.#mark("cancelled", "");
    this.#say("Cancelled.");
  }

  #end() {
    this.over = true;
    this.element.setAttribute("aria-busy", "false");
  }

  #stay(why) {
    this.#mark("ok", "ok");
    this.#say(`${why}. The caption from before is kept.`);
  }

  #step(by) {
    this.#show(this.#at + by);
    this.changed();
  }

  #show(at) {
    this.#at = at;
    const { caption, facts: told } = this.#versions[at];
    const { text, state, which, versions, older, newer, copy: copies, save, facts: line } = this.#parts;
    text.classList.remove("muted", "coming");
    state.classList.remove("coming");
    text.textContent = caption;
    state.textContent = "";
    line.textContent = told;
    copies.disabled = save.disabled = false;
    versions.hidden = this.#versions.length < 2;
    which.textContent = `${at + 1} of ${this.#versions.length}`;
    older.disabled = at === 0;
    newer.disabled = at === this.#versions.length - 1;
    if (this.over) this.#mark("ok", "ok");
  }

  #showBest(event) {
    const { text, copy: copies, facts: line } = this.#parts;
    text.classList.remove("muted", "coming");
    text.textContent = event.caption;
    copies.disabled = !event.caption;
    line.textContent = facts(event);
    this.#mark(`glitched: ${plain(event.glitch)}`, "glitched");
    this.element.classList.add("stays");
    text.tabIndex = 0; // it scrolls
    const kept = event.trimmed ? "the good beginning of one is shown" : "the best is shown";
    this.#note(`No attempt was good; ${kept}, and kept out of downloads.`);
  }

  #mark(words, kind) {
    this.#parts.chip.textContent = words;
    this.#parts.chip.className = `chip ${kind}`;
  }

  // In place of a caption, or beside the one from before.
  #say(words) {
    this.#parts.text.classList.remove("coming");
    this.#parts.state.classList.remove("coming");
    if (this.caption !== null) {
      this.#parts.state.textContent = words;
      return;
    }
    this.#parts.text.classList.add("muted");
    this.#parts.text.textContent = words;
    this.#parts.facts.textContent = "";
  }

  #add({ glitch, error, why, ms, seed }) {
    const line = document.createElement("li");
    const verdict = document.createElement("strong");
    verdict.className = glitch ? "glitched" : error ? "failed" : "ok";
    verdict.textContent = glitch ? plain(glitch) : error ? "no answer" : "ok";
    line.append(verdict, ` ${why || error}`);
    line.title = `seed ${seed}, ${(ms / 1000).toFixed(1)} s`;
    this.#parts.attempts.append(line);
  }

  #note(words) {
    const line = document.createElement("li");
    line.className = "note";
    line.textContent = words;
    this.#parts.attempts.append(line);
  }
}

// A kind of glitch in plain words.
function plain(kind) {
  return kind.replaceAll("_", " ");
}

function facts({ attempts, usage, caption }) {
  const seconds = attempts.reduce((sum, { ms }) => sum + ms, 0) / 1000;
  const words = caption ? caption.trim().split(/\s+/).length : 0;
  const parts = [`${words} words`, `${usage.completion} tokens`, `${seconds.toFixed(1)} s`];
  const last = attempts[attempts.length - 1];
  if (last) parts.push(`seed ${last.seed}`);
  return parts.join(" · ");
}
