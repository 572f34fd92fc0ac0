// The chosen caption: its picture, its words, and what can be done with them.

import { Changes } from "/static/review-changes.js";
import { chipOf } from "/static/review-grid.js";

const $ = (id) => document.getElementById(id);

export function sentence(text) {
  const end = /[.!?…]$/.test(text) || !text ? "" : ".";
  return text.charAt(0).toUpperCase() + text.slice(1) + end;
}

// What is longer than its room can be scrolled by keys too.
function scrolls(part) {
  if (part.scrollHeight > part.clientHeight) part.tabIndex = 0;
  else part.removeAttribute("tabindex");
}

export class Detail {
  // `arrived(answer, words)` shows what came of a change; `say` tells a person something.
  constructor({ api, arrived, say, moved }) {
    Object.assign(this, { api, say });
    this.item = null;
    this.offers = new Map(); // answers that wait to be taken, by caption
    this.asking = new Set();
    this.changes = new Changes({
      post: (what, body) => api.post(what, body),
      done: arrived,
      failed: (error, item, change) => this.failed(error, item, change),
      moved: () => { this.mark(); moved(); },
    });
    this.text = $("caption");
    this.text.addEventListener("input", () => this.changes.write(this.item, this.text.value));
    this.text.addEventListener("blur", () => this.save());
    $("save").addEventListener("click", () => this.save());
    $("accept").addEventListener("click", () => this.accept());
    $("again").addEventListener("click", () => this.ask());
    $("take").addEventListener("click", () => this.take());
    $("drop").addEventListener("click", () => this.drop());
  }

  get changed() {
    return this.item !== null && this.changes.drafts.has(this.item.id);
  }

  show(item) {
    const same = this.item?.id === item.id;
    this.item = item;
    $("detail").hidden = false;
    if (!same) {
      this.hideConflict();
      $("detail").scrollTop = 0;
    }
    $("name").textContent = $("name").title = item.key;
    const address = this.api.picture(item, "large");
    const large = $("large");
    if (large.getAttribute("src") !== address) large.src = address;
    large.alt = item.missing || `Picture ${item.key}`;
    $("chip").textContent = chipOf(item);
    $("chip").className = `chip ${item.outcome}`;
    $("prompt-name").textContent = item.prompt === "caption" ? "" : item.prompt;
    const why = [item.why, item.trouble, item.missing].filter(Boolean).map(sentence);
    if (item.best) why.push(`The journal's text is another: ${item.best}`);
    $("why").textContent = why.join(" ");
    $("why").hidden = why.length === 0;
    scrolls($("why"));
    const words = this.changes.text(item);
    if (!same || this.text.value !== words) this.text.value = words;
    this.text.readOnly = Boolean(item.trouble);
    $("accept").disabled = item.outcome === "ok" || !item.caption || Boolean(item.trouble);
    this.mark();
    this.showOffer();
  }

  hide() {
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
    if (!this.item) return;
    this.changes.leave(this.item);
    this.text.value = this.changes.text(this.item);
  }

  async save() {
    if (!this.changed || this.text.readOnly || !$("conflict").hidden) return;
    if (!this.text.value.trim()) {
      this.say("An empty text is no caption; it was not saved.");
      this.revert();
      return;
    }
    await this.changes.save(this.item);
  }

  async accept() {
    if (!this.item || $("accept").disabled || this.changed) return this.save();
    await this.changes.queue(this.item, ({ caption, outcome }) =>
      outcome === "ok" ? null : { what: "edit", body: { text: caption, what: "accept" }, done: "Accepted." });
  }

  failed(error, item, change) {
    const here = this.item?.id === item.id;
    if (change.offer) this.offers.set(item.id, change.offer);
    if (here && error.code === "conflict" && error.item) this.askWhich(error, change);
    else if (here) this.say(error.message);
    else this.say(`${item.key}: ${error.message}${change.sent ? " Your words are kept there." : ""}`);
  }

  // Somebody else changed the file: whose words are to stay?
  askWhich(error, change) {
    const theirs = error.item;
    this.choices(error.message, theirs.caption, "Take theirs", () => {
      this.changes.leave(theirs);
      this.show(theirs);
    }, change.what === "take" ? "Keep the new answer" : "Write mine", () => {
      const mine = this.text.value; // as it stands now, not as it was sent
      this.item = theirs;
      this.changes.rebase(theirs);
      if (change.what === "take") return this.take();
      this.changes.write(theirs, mine);
      return this.changed ? this.save() : this.accept();
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
    scrolls($("conflict-text"));
    $("conflict").scrollIntoView({ block: "nearest" });
    // Who is typing goes on doing so; the card is read out as an alert.
    if (document.activeElement !== this.text) $("theirs").focus({ preventScroll: true });
  }

  hideConflict() {
    $("conflict").hidden = true;
  }

  async ask() {
    const { item } = this;
    if (!item || this.asking.has(item.id)) return;
    this.asking.add(item.id);
    this.offers.delete(item.id);
    this.showOffer();
    const where = () => (this.item?.id === item.id ? "" : `${item.key}: `);
    try {
      const sent = { id: item.id, type: $("type").value, length: $("length").value };
      this.offers.set(item.id, await this.api.post("again", sent));
      this.say(`${where()}there is a new answer.`);
    } catch (error) {
      this.say(where() + error.message);
    } finally {
      this.asking.delete(item.id);
      this.showOffer();
      const sees = this.item?.id === item.id && document.activeElement !== this.text;
      if (sees) $("offer").scrollIntoView({ block: "nearest" });
    }
  }

  get offer() {
    return this.item ? this.offers.get(this.item.id) : undefined;
  }

  showOffer() {
    const { offer } = this;
    const asking = this.item !== null && this.asking.has(this.item.id);
    $("again").disabled = asking;
    $("again").textContent = asking ? "Asking …" : "Ask";
    $("offer").hidden = !offer;
    if (!offer) return;
    $("offer-chip").textContent = chipOf({ ...offer, byHand: false });
    $("offer-chip").className = `chip ${offer.outcome}`;
    const tries = offer.attempts === 1 ? "1 attempt" : `${offer.attempts} attempts`;
    $("offer-facts").textContent = [tries, offer.why].filter(Boolean).join(" · ");
    $("offer-text").textContent = offer.caption || "There is no text.";
    scrolls($("offer-text"));
    $("take").disabled = !offer.caption;
  }

  // Words that were typed meanwhile are saved first, so that Undo brings them back.
  async take() {
    const { item, offer } = this;
    if (!offer?.caption || !$("conflict").hidden) return;
    await this.save();
    await this.changes.queue(item, () => {
      if (this.offers.get(item.id) !== offer || this.changes.drafts.has(item.id)) return null;
      this.offers.delete(item.id);
      return { what: "take", body: { offer: offer.offer }, offer, done: "The new answer is kept." };
    });
    if (this.item?.id === item.id) this.showOffer();
  }

  drop() {
    if (this.item) this.offers.delete(this.item.id);
    this.showOffer();
  }
}
