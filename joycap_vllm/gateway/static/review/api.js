// What the page asks of the gateway.

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The gateway answered ${status}.`);
    this.status = status;
    this.code = body?.error?.code ?? "";
    this.item = body?.item ?? null;
    this.body = body;
  }
}

async function reached(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The gateway cannot be reached. Is joycap gateway still running?");
  }
}

export class Api {
  // `loggedOut(out)` is told whether the gateway knows the person no more; true, if the page stays
  // all the same.
  constructor(book, { loggedOut }) {
    this.base = `/review/${book}`;
    this.loggedOut = loggedOut;
  }

  async get(what, values = {}, signal = undefined) {
    const query = new URLSearchParams(values);
    return this.answered(await reached(`${this.base}/${what}?${query}`, { signal }));
  }

  async post(what, body) {
    const headers = { "Content-Type": "application/json" };
    const text = JSON.stringify(body);
    const keepalive = text.length < 10000; // it arrives even if the page is left meanwhile
    const sent = { method: "POST", headers, body: text, keepalive };
    return this.answered(await reached(`${this.base}/${what}`, sent));
  }

  async answered(reply) {
    if (reply.status === 401) {
      if (this.loggedOut(true)) throw new Refused(401, { error: { message: "You are logged out." } });
      const here = location.pathname + location.search;
      location.assign(`/login?next=${encodeURIComponent(here)}`);
      return new Promise(() => {}); // the page is on its way out
    }
    this.loggedOut(false);
    const body = await reply.json().catch(() => null);
    if (!reply.ok) throw new Refused(reply.status, body);
    return body;
  }

  picture(item, side) {
    const query = new URLSearchParams({ side, version: item.version });
    return `${this.base}/picture/${item.id}?${query}`;
  }
}
