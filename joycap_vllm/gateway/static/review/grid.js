// A grid of any length: only the cards in sight exist, and only their captions are fetched.

const CHUNK = 60; // captions that are fetched at once
const KEPT = 60; // chunks that are kept
const GAP = 12; // pixels between cards
const NARROWEST = 168; // pixels of a card
const TEXT = 104; // pixels of a card's words
const TALLEST = 8e6; // pixels; browsers draw nothing beyond some tens of millions
const REST = 60; // milliseconds for which the view holds still before anything is fetched

const LABELS = { ok: "ok", glitched: "glitched", failed: "failed" };

export function chipOf(item) {
  const parts = [item.glitch && item.outcome !== "ok" ? item.glitch : LABELS[item.outcome] ?? item.outcome];
  if (item.byHand) parts.push("by hand");
  return parts.join(" · ").replaceAll("_", " ");
}

export class Grid {
  // `picture(item)` gives an address, `fetchChunk(offset, count, signal)` a promise of captions.
  constructor(pane, list, { picture, fetchChunk, onChoose, onFailure }) {
    Object.assign(this, { pane, list, picture, fetchChunk, onChoose, onFailure });
    this.total = 0;
    this.chosen = -1;
    this.cards = new Map();
    this.chunks = new Map();
    this.pending = new Map();
    this.timer = 0;
    pane.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.resized()).observe(pane);
    list.addEventListener("click", (event) => {
      const card = event.target.closest("[data-index]");
      if (card) this.choose(Number(card.dataset.index), true);
    });
  }

  reset(total, first) {
    for (const abort of this.pending.values()) abort.abort();
    this.pending.clear();
    this.chunks.clear();
    for (const index of [...this.cards.keys()]) this.remove(index);
    this.total = total;
    this.chosen = -1;
    if (total) this.chunks.set(0, first);
    this.pane.scrollTop = 0;
    this.measure();
    this.draw();
  }

  item(index) {
    return this.chunks.get(Math.floor(index / CHUNK))?.[index % CHUNK] ?? null;
  }

  // A caption that has changed, wherever it is shown.
  update(item) {
    for (const [chunk, items] of this.chunks) {
      const at = items.findIndex((each) => each.id === item.id);
      if (at < 0) continue;
      items[at] = item;
      const card = this.cards.get(chunk * CHUNK + at);
      if (card) this.fill(card, item);
    }
  }

  async choose(index, byPointer = false) {
    if (!this.total) return;
    const before = this.cards.get(this.chosen);
    before?.setAttribute("aria-selected", "false");
    this.chosen = Math.max(0, Math.min(this.total - 1, index));
    this.show(this.chosen);
    this.draw();
    const wanted = this.chosen;
    if (!this.item(wanted)) await this.fetch(Math.floor(wanted / CHUNK));
    if (wanted === this.chosen && this.item(wanted)) this.onChoose(this.item(wanted), byPointer);
  }

  resized() {
    const top = this.firstRow() * this.columns;
    this.measure();
    this.scrollToRow(Math.floor(top / this.columns));
    this.draw();
  }

  measure() {
    const width = this.pane.clientWidth - 2 * GAP;
    this.columns = Math.max(1, Math.floor((width + GAP) / (NARROWEST + GAP)));
    this.width = (width - (this.columns - 1) * GAP) / this.columns;
    this.height = Math.round(this.width * 0.75) + TEXT + GAP;
    this.rows = Math.ceil(this.total / this.columns);
    this.whole = this.rows * this.height + GAP;
    this.drawn = Math.min(this.whole, TALLEST);
    this.list.style.height = `${this.drawn}px`;
  }

  // Where the top of the window lies in the whole grid, which may be taller than what is drawn.
  offset() {
    const room = this.drawn - this.pane.clientHeight;
    const part = room > 0 ? this.pane.scrollTop / room : 0;
    return part * Math.max(0, this.whole - this.pane.clientHeight);
  }

  firstRow() {
    return this.height ? Math.floor(this.offset() / this.height) : 0;
  }

  scrollToRow(row, atBottom = false) {
    const seen = this.pane.clientHeight;
    const wanted = atBottom ? (row + 1) * this.height + GAP - seen : row * this.height;
    const most = Math.max(1, this.whole - seen);
    this.pane.scrollTop = (Math.max(0, wanted) / most) * Math.max(0, this.drawn - seen);
  }

  show(index) {
    const row = Math.floor(index / this.columns);
    const top = this.offset();
    if (row * this.height < top) this.scrollToRow(row);
    else if ((row + 1) * this.height > top + this.pane.clientHeight) this.scrollToRow(row, true);
  }

  draw() {
    if (!this.height) return;
    const top = this.offset();
    const first = Math.max(0, Math.floor(top / this.height) - 1) * this.columns;
    const last = Math.ceil((top + this.pane.clientHeight) / this.height + 1) * this.columns;
    const end = Math.min(this.total, last);
    for (const index of [...this.cards.keys()]) {
      if ((index < first || index >= end) && index !== this.chosen) this.remove(index);
    }
    const shift = this.pane.scrollTop - top;
    for (let index = first; index < end; index += 1) this.place(index, shift);
    if (this.chosen >= 0) this.place(this.chosen, shift);
    if (this.chosen >= 0) this.list.setAttribute("aria-activedescendant", `card-${this.chosen}`);
    else this.list.removeAttribute("aria-activedescendant");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.need(first, end), REST);
  }

  place(index, shift) {
    let card = this.cards.get(index);
    if (!card) {
      card = makeCard(index, this.total);
      this.cards.set(index, card);
      this.list.append(card);
      const item = this.item(index);
      if (item) this.fill(card, item);
    }
    const x = GAP + (index % this.columns) * (this.width + GAP);
    const y = GAP + Math.floor(index / this.columns) * this.height + shift;
    card.style.transform = `translate(${x}px, ${y}px)`;
    card.style.width = `${this.width}px`;
    card.style.height = `${this.height - GAP}px`;
    card.setAttribute("aria-selected", String(index === this.chosen));
  }

  remove(index) {
    const card = this.cards.get(index);
    card.querySelector("img").removeAttribute("src"); // which ends its download
    card.remove();
    this.cards.delete(index);
  }

  fill(card, item) {
    const [img, chip, name, text] = card.parts;
    const address = this.picture(item);
    if (img.getAttribute("src") !== address) img.src = address;
    chip.textContent = chipOf(item);
    chip.className = `chip ${item.outcome}`;
    name.textContent = item.key.split("/").pop();
    name.title = item.key;
    text.textContent = item.caption || item.why;
    text.classList.toggle("muted", !item.caption);
    card.setAttribute("aria-label", `${item.key}: ${chipOf(item)}`);
  }

  need(first, end) {
    const wanted = new Set();
    for (let index = first; index < end; index += CHUNK) wanted.add(Math.floor(index / CHUNK));
    if (end > first) wanted.add(Math.floor((end - 1) / CHUNK));
    for (const [chunk, abort] of this.pending) if (!wanted.has(chunk)) abort.abort();
    for (const chunk of wanted) if (!this.chunks.has(chunk)) this.fetch(chunk);
    for (const chunk of [...this.chunks.keys()]) {
      if (this.chunks.size <= KEPT) break;
      if (!wanted.has(chunk) && chunk !== Math.floor(this.chosen / CHUNK)) this.chunks.delete(chunk);
    }
  }

  fetch(chunk) {
    if (!this.pending.has(chunk)) {
      const abort = new AbortController();
      const entry = { abort: () => abort.abort(), done: null };
      this.pending.set(chunk, entry);
      entry.done = this.load(chunk, entry, abort.signal);
    }
    return this.pending.get(chunk).done;
  }

  async load(chunk, entry, signal) {
    try {
      const items = await this.fetchChunk(chunk * CHUNK, CHUNK, signal);
      if (this.pending.get(chunk) !== entry) return; // another view is shown by now
      this.chunks.set(chunk, items);
      for (const [index, card] of this.cards) {
        if (Math.floor(index / CHUNK) === chunk && this.item(index)) this.fill(card, this.item(index));
      }
    } catch (error) {
      if (error.name !== "AbortError") this.onFailure(error);
    } finally {
      if (this.pending.get(chunk) === entry) this.pending.delete(chunk);
    }
  }
}

function makeCard(index, total) {
  const card = document.createElement("div");
  card.className = "tile";
  card.id = `card-${index}`;
  card.dataset.index = index;
  card.setAttribute("role", "option");
  card.setAttribute("aria-posinset", index + 1);
  card.setAttribute("aria-setsize", total);
  const made = ["img", "span", "span", "p"].map((name) => document.createElement(name));
  const [img, chip, name, text] = made;
  img.alt = "";
  img.decoding = "async";
  chip.className = "chip";
  name.className = "tile-name";
  text.className = "tile-text";
  text.dir = "auto";
  const head = document.createElement("div");
  head.className = "tile-head";
  head.append(chip, name);
  card.append(img, head, text);
  card.parts = made;
  return card;
}
