// One picture: its card, and how it is captioned.

import { Refused, dataUrl, events, post } from "/static/studio/api.js";
import { Answer } from "/static/studio/answer.js";
import { pause } from "/static/studio/queue.js";

const BLANK = document.querySelector("#picture-template");
const BROKE = "The gateway broke off. Is it still running?";
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
    this.answers = []; // all that are shown
    this.round = null; // those of the prompts that are asked now, once the gateway has named them
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
    return !this.#parts.fault.hidden || Boolean(this.round?.every((answer) => answer.over));
  }

  /** How many good captions were neither copied nor downloaded. */
  get untaken() {
    return this.answers.filter((answer) => answer.untaken).length;
  }

  /** Gives its memory back. */
  release() {
    URL.revokeObjectURL(this.#url);
  }

  /** It waits for its turn; good captions stay. */
  queue() {
    this.#turn += 1;
    this.#fault("");
    this.round?.forEach((answer) => answer.cancel());
    this.round = null;
    this.answers = this.captions;
    this.answers.forEach((answer) => answer.keep());
    const line = document.createElement("p");
    line.className = "muted waiting";
    line.textContent = "Waiting for its turn…";
    this.#parts.answers.replaceChildren(line, ...this.answers.map((answer) => answer.element));
    this.#parts.again.textContent = "Caption again";
  }

  /** Asks for its captions; says itself what went wrong. */
  async caption({ ask, first }, mostBytes, signal) {
    const turn = this.#turn;
    this.first = first;
    try {
      await this.#stream(await this.#asked(ask, mostBytes, signal), turn);
      if (turn === this.#turn && !this.over) throw new Refused(BROKE, 0);
    } catch (error) {
      if (turn !== this.#turn) return;
      if (error.name === "AbortError") this.cancel();
      else this.#break(error);
    }
    this.changed();
  }

  /** What has not ended is said to be cancelled. */
  cancel() {
    if (this.round) {
      this.round.forEach((answer) => answer.cancel());
      return;
    }
    this.#waited();
    this.#fault("Cancelled.", false);
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

  async #stream(response, turn) {
    for await (const event of events(response)) {
      if (turn !== this.#turn) return;
      const answer = this.round?.[event.prompt];
      if (event.event === "start") this.#start(event);
      else if (event.event === "text") answer.come(event.text);
      else if (event.event === "attempt") answer.attempt(event);
      else if (event.event === "waiting") this.round.forEach((each) => each.wait(event.why));
      else if (event.event === "error") answer.fail(event.error.message);
      else if (event.event === "outcome") answer.finish(event);
      this.changed();
    }
  }

  #start({ image, prompts, attempts }) {
    const bytes = size(image.bytes);
    this.#parts.facts.textContent = `${image.width} × ${image.height} · ${bytes}`;
    this.round = prompts.map((prompt) => {
      const answer = this.answers.find(({ name }) => name === prompt.name) ?? this.#answer(prompt.name);
      answer.ask(prompt, attempts);
      return answer;
    });
    const before = this.answers.filter((answer) => !this.round.includes(answer));
    this.answers = [...this.round, ...before];
    const shown = [...this.answers].sort((a, b) => (b.name === this.first) - (a.name === this.first));
    this.#parts.answers.replaceChildren(...shown.map((answer) => answer.element));
  }

  #answer(name) {
    const answer = new Answer(name, {
      save: () => this.save(answer),
      drop: () => {
        this.answers = this.answers.filter((each) => each !== answer);
        answer.element.remove();
        this.changed();
        this.#parts.again.focus();
      },
      changed: this.changed,
    });
    return answer;
  }

  #waited() {
    this.#parts.answers.querySelector(".waiting")?.remove();
  }

  #break(error) {
    const message = error instanceof Refused ? error.message : BROKE;
    if (this.round) this.round.filter((answer) => !answer.over).forEach((answer) => answer.fail(message));
    else {
      this.#waited();
      this.#fault(message);
    }
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
