// The exact prompt, asked of the gateway so that the very same code makes it.

import { post } from "/static/studio/api.js";

const PAUSE = 120; // milliseconds of no typing before the gateway is asked

/** Shows the prompts of what is asked, always those of the last change. */
export class Preview {
  #box;
  #timer = 0;
  #asking = null;
  #prompts = [];

  constructor(box) {
    this.#box = box;
  }

  /** The texts shown, for the clipboard. */
  get text() {
    return this.#prompts.map((prompt) => prompt.text).join("\n\n");
  }

  /** Asks for the prompts of `ask`, soon; shows that of the type `first` before the others. */
  update({ ask, first }) {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#timer = setTimeout(() => this.#ask(ask, first), PAUSE);
  }

  /** Says in place of a prompt why there is none. */
  say(words) {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#prompts = [];
    this.#box.replaceChildren(part("p", "muted", words));
  }

  async #ask(ask, first) {
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    try {
      const response = await post("/studio/prompt", ask, signal);
      const { prompts } = await response.json();
      prompts.sort((a, b) => (b.name === first) - (a.name === first));
      if (!signal.aborted) this.#show(prompts);
    } catch (error) {
      if (error.name !== "AbortError") this.say(error.message);
    }
  }

  #show(prompts) {
    this.#prompts = prompts;
    const several = prompts.length > 1;
    const parts = [part("h3", "", "System"), part("p", "system", prompts[0].system)];
    for (const prompt of prompts) {
      parts.push(part("h3", "", several ? prompt.title : "User, with the picture"));
      parts.push(part("p", "asked", prompt.text));
    }
    this.#box.replaceChildren(...parts);
  }
}

function part(tag, kind, text) {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}
