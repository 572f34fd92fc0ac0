// One picture: its card, and how it is captioned.

import { Refused, dataUrl, events, post } from "/static/studio/api.js";
import { Answer } from "/static/studio/answer.js";
import { pause } from "/static/studio/queue.js";

const BLANK = document.querySelector("#picture-template");
const MOST_WAITS = 20; // times that a full gateway is asked again

/** A picture with its card and its answers. */
export class Picture {
  #parts;
  #url;
  #turn = 0; // counts the times it was asked about; what an earlier one still says is too late

  /**
   * @param file The file.
   * @param path Its name, with folders where it was dropped within one.
   * @param actions {again, remove, save, changed}, called with this picture.
   */
  constructor({ file, path }, actions) {
    this.file = file;
    this.path = path;
    this.first = "";
    this.answers = [];
    this.changed = () => actions.changed(this);
    this.save = (answer) => actions.save(this, answer);
    this.#url = URL.createObjectURL(file);
    this.element = BLANK.content.firstElementChild.cloneNode(true);
    this.#parts = Object.fromEntries(
      ["img", ".shot", ".file", ".facts", ".again", ".remove", ".fault", ".answers"].map((which) => [
        which.replace(".", ""),
        this.element.querySelector(which),
      ]),
    );
    const { img, shot, again, remove } = this.#parts;
    img.addEventListener("error", () => shot.classList.add("unseen"));
    img.src = this.#url;
    this.#parts.file.textContent = path;
    this.#parts.file.title = path;
    this.#parts.facts.textContent = size(file.size);
    again.setAttribute("aria-label", `Caption ${path} again`);
    again.addEventListener("click", () => actions.again(this));
    remove.setAttribute("aria-label", `Remove ${path}`);
    remove.addEventListener("click", () => actions.remove(this));
  }

  /** The good captions: [{name, caption}], that of the first type first. */
  get captions() {
    return this.answers.filter((answer) => answer.caption !== null);
  }

  /** Whether it has ended, well or badly. */
  get over() {
    const { fault } = this.#parts;
    return !fault.hidden || (this.answers.length > 0 && this.answers.every((a) => a.over));
  }

  /** Gives its memory back. */
  release() {
    URL.revokeObjectURL(this.#url);
  }

  /** It waits for its turn. */
  queue() {
    this.#turn += 1;
    this.#fault("");
    this.answers = [];
    const line = document.createElement("p");
    line.className = "muted waiting";
    line.textContent = "Waiting for its turn…";
    this.#parts.answers.replaceChildren(line);
    this.#parts.again.textContent = "Caption again";
  }

  /** Asks for its captions; says itself what went wrong. */
  async caption({ ask, first }, mostBytes, signal) {
    const turn = this.#turn;
    this.first = first;
    try {
      await this.#stream(await this.#asked(ask, mostBytes, signal));
      if (!this.over) throw new Refused("The gateway broke off. Is it still running?", 0);
    } catch (error) {
      if (turn !== this.#turn) return;
      if (error.name === "AbortError") this.cancel();
      else this.#break(error);
    }
    this.changed();
  }

  /** What has not ended is said to be cancelled. */
  cancel() {
    this.answers.forEach((answer) => answer.cancel());
    if (this.answers.length === 0) this.#parts.answers.replaceChildren();
    if (this.answers.length === 0) this.#fault("Cancelled.", false);
  }

  async #asked(ask, mostBytes, signal) {
    // Base64 makes four bytes of three; the rest of the request is small.
    if ((this.file.size * 4) / 3 + 4096 > mostBytes) {
      const most = size((mostBytes * 3) / 4);
      throw new Refused(`The file has ${size(this.file.size)}; the gateway takes ${most} at most.`, 413);
    }
    const image = await dataUrl(this.file);
    for (let waits = 0; ; waits++) {
      try {
        return await post("/studio/caption", { ...ask, image }, signal);
      } catch (error) {
        if (error.status !== 429 || waits >= MOST_WAITS) throw error;
        this.#parts.answers.querySelector(".waiting").textContent = "The gateway is full; waiting…";
        await pause(Math.max(error.wait, 1), signal);
      }
    }
  }

  async #stream(response) {
    for await (const event of events(response)) {
      const answer = this.answers[event.prompt];
      if (event.event === "start") this.#start(event);
      else if (event.event === "attempt") answer.attempt(event);
      else if (event.event === "waiting") this.answers.forEach((each) => each.wait(event.why));
      else if (event.event === "error") answer.fail(event.error.message);
      else if (event.event === "outcome") answer.finish(event);
      this.changed();
    }
  }

  #start({ image, prompts, attempts }) {
    const bytes = size(image.bytes);
    this.#parts.facts.textContent = `${image.width} × ${image.height} · ${bytes}`;
    this.answers = prompts.map((prompt) => {
      const answer = new Answer(prompt, attempts, () => this.save(answer));
      return answer;
    });
    const shown = [...this.answers].sort((a, b) => (b.name === this.first) - (a.name === this.first));
    this.#parts.answers.replaceChildren(...shown.map((answer) => answer.element));
  }

  #break(error) {
    const message = error instanceof Refused ? error.message : "The gateway broke off. Is it still running?";
    if (this.answers.length === 0) {
      this.#parts.answers.replaceChildren();
      this.#fault(message);
      return;
    }
    this.answers.filter((answer) => !answer.over).forEach((answer) => answer.fail(message));
  }

  #fault(words, loud = true) {
    const { fault } = this.#parts;
    fault.hidden = !words;
    fault.classList.toggle("failed", loud);
    if (loud && words) fault.setAttribute("role", "alert");
    else fault.removeAttribute("role");
    fault.textContent = words;
  }
}

function size(bytes) {
  if (bytes < 1e3) return `${bytes} bytes`;
  if (bytes < 1e6) return `${Math.round(bytes / 1e3)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
