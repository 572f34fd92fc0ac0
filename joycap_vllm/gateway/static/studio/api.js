// What the page asks of the gateway.

/** A request that was refused; its message is meant for users. */
export class Refused extends Error {
  constructor(message, status, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds after which the gateway says to come back; 0 where it does not
  }
}

let keeps = () => false;

/** `holds()` says whether the page holds what leaving it for the login would lose. */
export function stayWhile(holds) {
  keeps = holds;
}

/** Posts JSON; throws Refused, or an AbortError once the signal says so. */
export async function post(path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      credentials: "same-origin",
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The gateway cannot be reached. Is joycap gateway still running?", 0);
  }
  if (response.status === 401) {
    if (keeps()) throw new Refused("You are logged out. Log in at /login in another tab, then ask again.", 401);
    location.assign("/login?next=" + encodeURIComponent(location.pathname));
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let message = `The gateway answered with status ${response.status}.`;
  try {
    message = sentence((await response.json()).error.message);
  } catch {
    // No JSON: something between here and the gateway has answered.
  }
  return new Refused(message, response.status, Number(response.headers.get("Retry-After")) || 0);
}

/** The gateway's words as a sentence. */
export function sentence(words) {
  const text = String(words).trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

/** The JSON values of a response that holds one a line, as they come. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
  }
}

/** A file as a data: URL in base64. */
export function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Refused(`${file.name} cannot be read any more.`, 0));
    reader.readAsDataURL(file);
  });
}
