// What a person changes: words that are not saved yet, and changes on their way. Those of one
// caption go one after another, so that each is made of what the one before has left.

// A text field knows one kind of line break only.
const asShown = (text) => text.replace(/\r\n?/g, "\n");

export class Changes {
  // `post(what, body)` sends a change; `done(answer, words)` and `failed(error, item, change)` are
  // told what came of it, `moved()` that there are more or fewer of them.
  constructor({ post, done, failed, moved }) {
    Object.assign(this, { post, done, failed, moved });
    this.drafts = new Map(); // words that are not saved, with the caption that they were written over
    this.lines = new Map(); // changes on their way
  }

  get busy() {
    return this.drafts.size > 0 || this.lines.size > 0;
  }

  // Ends when all that is on its way has arrived.
  async idle() {
    while (this.lines.size) await Promise.all([...this.lines.values()].map((line) => line.last));
  }

  // What a caption is to say.
  text(item) {
    return this.drafts.get(item.id)?.text ?? this.base(item);
  }

  write(item, text) {
    const over = this.drafts.get(item.id)?.over ?? item;
    if (text === this.base(item)) this.drafts.delete(item.id);
    else this.drafts.set(item.id, { text, over });
    this.moved();
  }

  leave(item) {
    this.drafts.delete(item.id);
    this.moved();
  }

  // The person has seen what the file says by now.
  rebase(item) {
    const [draft, line] = [this.drafts.get(item.id), this.lines.get(item.id)];
    if (draft) draft.over = item;
    if (line) line.item = item;
  }

  save(item) {
    return this.queue(item, () => {
      const draft = this.drafts.get(item.id);
      if (!draft) return null;
      this.drafts.delete(item.id);
      return { what: "edit", body: { text: draft.text, seen: draft.over.seen }, sent: draft, done: "Saved." };
    });
  }

  // `make` is given the caption as it stands when its turn has come; null changes nothing.
  queue(item, make) {
    const line = this.lines.get(item.id) ?? { item, last: Promise.resolve(), left: 0, sent: null };
    this.lines.set(item.id, line);
    line.left += 1;
    line.last = line.last.then(() => this.turn(line, make(line.item)));
    return line.last;
  }

  async turn(line, change) {
    const { id } = line.item;
    try {
      if (!change) return;
      line.sent = change.sent ?? null;
      const answer = await this.post(change.what, { id, seen: line.item.seen, ...change.body });
      line.sent = null;
      this.rebase(answer.item);
      this.done(answer, change.done);
    } catch (error) {
      line.sent = null;
      if (change.sent && !this.drafts.has(id)) this.drafts.set(id, change.sent);
      this.failed(error, line.item, change);
    } finally {
      line.left -= 1;
      if (line.left === 0) this.lines.delete(id);
      this.moved();
    }
  }

  base(item) {
    return this.lines.get(item.id)?.sent?.text ?? asShown(item.caption);
  }
}
