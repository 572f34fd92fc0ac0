// One answer: its caption, its verdict, and the attempts it took.

import { sentence } from "/static/studio/api.js";
import { copy } from "/static/studio/files.js";

const BLANK = document.querySelector("#answer-template");

/** The part of a picture's card that shows what one prompt brought. */
export class Answer {
  #parts;
  #most;
  #answered = 0;

  /**
   * @param prompt {name, title, text, system}
   * @param most Attempts at most.
   * @param save Called to download the caption.
   */
  constructor(prompt, most, save) {
    this.name = prompt.name;
    this.title = prompt.title;
    this.caption = null; // the good caption, once there is one
    this.over = false;
    this.glitches = 0;
    this.#most = most;
    this.element = BLANK.content.firstElementChild.cloneNode(true);
    this.#parts = Object.fromEntries(
      ["h3", ".chip", ".text", ".attempts", ".facts", ".copy", ".save"].map((which) => [
        which.replace(".", ""),
        this.element.querySelector(which),
      ]),
    );
    this.#parts.h3.textContent = prompt.title;
    this.#parts.h3.title = prompt.text;
    this.#parts.copy.addEventListener("click", () => {
      copy(this.#parts.text.textContent, this.#parts.copy);
    });
    this.#parts.save.addEventListener("click", save);
    this.element.setAttribute("aria-label", prompt.title);
    this.element.setAttribute("aria-busy", "true");
    this.#mark("asking", "");
    this.#say("Asking…");
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
    if (event.outcome === "failed") {
      this.fail(event.why);
      return;
    }
    this.#parts.text.classList.remove("muted");
    this.#parts.text.textContent = event.caption;
    this.#parts.copy.disabled = !event.caption;
    this.#parts.facts.textContent = facts(event);
    if (event.outcome === "ok") {
      this.caption = event.caption;
      this.#parts.save.disabled = false;
      this.#mark("ok", "ok");
    } else {
      this.#mark(`glitched: ${plain(event.glitch)}`, "glitched");
      this.element.classList.add("stays");
      this.#parts.text.tabIndex = 0; // it scrolls
      const kept = event.trimmed ? "the good beginning of one is shown" : "the best is shown";
      this.#note(`No attempt was good; ${kept}, and kept out of downloads.`);
    }
  }

  /** It ended without an answer. */
  fail(why) {
    this.#end();
    this.#mark("failed", "failed");
    this.#say(sentence(why));
  }

  /** It was cancelled before it had ended. */
  cancel() {
    if (this.over) return;
    this.#end();
    this.#mark("cancelled", "");
    this.#say("Cancelled.");
  }

  #end() {
    this.over = true;
    this.element.setAttribute("aria-busy", "false");
  }

  #mark(words, kind) {
    this.#parts.chip.textContent = words;
    this.#parts.chip.className = `chip ${kind}`;
  }

  #say(words) {
    this.#parts.text.classList.add("muted");
    this.#parts.text.textContent = words;
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
