// The chosen caption: its picture, its words, and what can be done with them.

import { chipOf } from "/static/review-grid.js";

const $ = (id) => document.getElementById(id);

export function sentence(text) {
  const end = /[.!?…]$/.test(text) || !text ? "" : ".";
  return text.charAt(0).toUpperCase() + text.slice(1) + end;
}

// A text field knows one kind of line break only.
const asShown = (text) => text.replace(/\r\n?/g, "\n");

export class Detail {
  // `act(what, body)` sends a change and gives the answer; `say` tells a person something.
  constructor({ api, act, say }) {
    Object.assign(this, { api, act, say });
    this.item = null;
    this.offer = null;
    this.asking = null;
    this.saving = new Map(); // changes on their way, by caption
    this.drafts = new Map(); // words that could not be saved, by caption
    this.text = $("caption");
    this.text.addEventListener("input", () => this.mark());
    this.text.addEventListener("blur", () => this.save());
    $("save").addEventListener("click", () => this.save());
    $("accept").addEventListener("click", () => this.accept());
    $("again").addEventListener("click", () => this.ask());
    $("take").addEventListener("click", () => this.take());
    $("drop").addEventListener("click", () => this.drop());
  }

  get changed() {
    return this.item !== null && this.text.value !== asShown(this.item.caption);
  }

  show(item) {
    const same = this.item?.id === item.id;
    if (this.changed && !same && !this.saving.has(this.item.id)) this.drafts.set(this.item.id, this.text.value);
    const draft = same && this.changed ? this.text.value : this.drafts.get(item.id);
    this.drafts.delete(item.id);
    this.item = item;
    if (!same) {
      this.drop();
      this.asking = null;
      this.answered();
      this.hideConflict();
    }
    $("detail").hidden = false;
    $("name").textContent = item.key;
    const address = this.api.picture(item, "large");
    const large = $("large");
    if (large.getAttribute("src") !== address) large.src = address;
    large.alt = item.missing || `Picture ${item.key}`;
    $("chip").textContent = chipOf(item);
    $("chip").className = `chip ${item.outcome}`;
    $("prompt-name").textContent = item.prompt === "caption" ? "" : item.prompt;
    const why = [item.why, item.trouble, item.missing].filter(Boolean);
    if (item.best) why.push(`The journal's text is another: ${item.best}`);
    $("why").textContent = why.join(" ");
    $("why").hidden = why.length === 0;
    this.text.value = draft ?? item.caption;
    this.text.readOnly = Boolean(item.trouble);
    $("accept").disabled = item.outcome === "ok" || !item.caption || Boolean(item.trouble);
    this.mark();
  }

  hide() {
    if (this.changed) this.drafts.set(this.item.id, this.text.value);
    this.item = null;
    $("detail").hidden = true;
  }

  mark() {
    $("save").disabled = !this.changed;
  }

  focus() {
    this.text.focus();
    this.text.setSelectionRange(this.text.value.length, this.text.value.length);
  }

  // Leaves the text as it was.
  revert() {
    if (this.item) this.text.value = this.item.caption;
    this.mark();
  }

  async save() {
    if (!this.changed || this.text.readOnly || !$("conflict").hidden) return;
    if (!this.text.value.trim()) {
      this.say("An empty text is no caption; it was not saved.");
      this.revert();
      return;
    }
    await this.change("edit", { text: this.text.value }, "Saved.");
  }

  async accept() {
    if (!this.item || $("accept").disabled || this.changed) return this.save();
    await this.change("edit", { text: this.item.caption, what: "accept" }, "Accepted.");
  }

  // One change of a caption at a time; what comes while one is on its way is the same one.
  change(what, body, done) {
    const item = this.item;
    if (!this.saving.has(item.id)) {
      const work = this.send(item, what, body, done).finally(() => this.saving.delete(item.id));
      this.saving.set(item.id, work);
    }
    return this.saving.get(item.id);
  }

  async send(item, what, body, done) {
    try {
      await this.act(what, { id: item.id, seen: item.seen, ...body }, done);
    } catch (error) {
      const gone = this.item?.id !== item.id;
      if (!gone && error.code === "conflict" && error.item) {
        this.askWhich(error, what, body, done);
        return;
      }
      if (gone && body.text) this.drafts.set(item.id, body.text);
      this.say(gone ? `${item.key} was not saved, but is kept there: ${error.message}` : error.message);
    }
  }

  // Somebody else changed the file: whose words are to stay?
  askWhich(error, what, body, done) {
    const theirs = error.item;
    this.choices(error.message, theirs.caption, "Take theirs", () => {
      this.text.value = this.item.caption;
      this.act("show", theirs);
    }, "Write mine", () => {
      this.item = { ...theirs };
      this.change(what, body, done);
    });
  }

  choices(why, text, first, onFirst, second, onSecond) {
    $("conflict-why").textContent = sentence(why);
    $("conflict-text").textContent = text;
    $("conflict-text").hidden = !text;
    $("theirs").textContent = first;
    $("mine").textContent = second;
    $("theirs").onclick = () => { this.hideConflict(); onFirst(); };
    $("mine").onclick = () => { this.hideConflict(); onSecond(); };
    $("conflict").hidden = false;
    $("conflict").scrollIntoView({ block: "nearest" });
    $("theirs").focus({ preventScroll: true });
  }

  hideConflict() {
    $("conflict").hidden = true;
  }

  async ask() {
    if (!this.item || this.asking) return;
    const item = this.item;
    this.drop();
    const asking = (this.asking = {});
    $("again").disabled = true;
    $("again").textContent = "Asking …";
    try {
      const sent = { id: item.id, type: $("type").value, length: $("length").value };
      const offer = await this.api.post("again", sent);
      if (this.asking === asking) this.put(offer);
    } catch (error) {
      if (this.asking === asking) this.say(error.message);
    } finally {
      if (this.asking === asking) this.asking = null;
      this.answered();
    }
  }

  answered() {
    if (this.asking) return;
    $("again").disabled = false;
    $("again").textContent = "Ask";
  }

  put(offer) {
    this.offer = offer;
    $("offer-chip").textContent = chipOf({ ...offer, byHand: false });
    $("offer-chip").className = `chip ${offer.outcome}`;
    const tries = offer.attempts === 1 ? "1 attempt" : `${offer.attempts} attempts`;
    $("offer-facts").textContent = [tries, offer.why].filter(Boolean).join(" · ");
    $("offer-text").textContent = offer.caption || "There is no text.";
    $("take").disabled = !offer.caption;
    $("offer").hidden = false;
    $("offer").scrollIntoView({ block: "nearest" });
    this.say("There is a new answer.");
  }

  async take() {
    if (!this.offer?.caption) return;
    const { offer } = this.offer;
    this.revert();
    await this.change("take", { offer }, "The new answer is kept.");
    this.drop();
  }

  drop() {
    this.offer = null;
    $("offer").hidden = true;
  }
}
