// Review: the page's parts put together.

import { Api } from "/static/review/api.js";
import { Detail, sentence } from "/static/review/detail.js";
import { Grid } from "/static/review/grid.js";
import { listen } from "/static/review/keys.js";

const $ = (id) => document.getElementById(id);
const FILTERS = ["outcome", "glitch", "prompt"];
const OUTCOMES = { glitched: "Glitched", failed: "Failed", ok: "Ok" };
const PHONE = matchMedia("(max-width: 760px)");
const TYPING = 200; // milliseconds without a key before a search begins
const POLL = 5000; // milliseconds between two looks at what a job is doing
const READING = 500;

const api = new Api($("review").dataset.book, {
  loggedOut: (out) => {
    $("out").hidden = !(out && changes.busy);
    return !$("out").hidden;
  },
});
let view = "";
let status = { undo: null, facets: null };
let asked = 0;
let loaded = Infinity; // captions that there were when the view was made
let worked = false; // whether a job was at work since

function say(text) {
  $("say").textContent = sentence(text);
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { $("say").textContent = ""; }, 6000);
}

const detail = new Detail({ api, arrived, say, moved });
const { changes } = detail;

const grid = new Grid($("pane"), $("grid"), {
  picture: (item) => api.picture(item, "grid"),
  fetchChunk: async (offset, count, signal) =>
    (await api.get("items", { view, offset, count }, signal)).items,
  onChoose: (item, byPointer) => {
    detail.save();
    if (!PHONE.matches || byPointer || isOpen()) open(item);
  },
  onFailure: (error) => {
    if (error.code === "view") load(grid.chosen);
    else say(error.message);
  },
});

// Shows what came of a change.
function arrived(answer, words = "") {
  grid.update(answer.item);
  if (detail.item?.id === answer.item.id) detail.show(answer.item);
  tell(answer);
  if (answer.trouble || words) say(answer.trouble || words);
}

// Words that could not be saved are led back to.
function moved() {
  const left = [...changes.drafts.values()].filter(({ over }) => over.id !== detail.item?.id);
  $("left").hidden = left.length === 0;
  $("left").textContent = `${left.length} not saved`;
  $("left").onclick = () => open(left[0].over);
}

function tell(news) {
  status = news;
  $("undo").disabled = !news.undo;
  $("undo").title = news.undo ? `Undo ( u ): ${news.undo.what} of ${news.undo.key}` : "Undo ( u )";
  $("busy").textContent = news.busy && `${news.busy} Captions can be looked at; changes wait until it has ended.`;
  $("busy").hidden = !news.busy;
  const { facets } = news;
  const more = facets.total - loaded;
  worked ||= Boolean(news.busy);
  $("more").textContent = more > 0 ? `Show ${more.toLocaleString()} new` : "Look again";
  $("more").hidden = more <= 0 && !worked;
  options("outcome", "All outcomes", { ...pick(facets.outcomes), ...(facets.edited ? { edited: ["By hand", facets.edited] } : {}) });
  options("glitch", "All kinds", counted(facets.glitches));
  options("prompt", "All types", counted(facets.prompts));
}

function pick(outcomes) {
  const known = Object.keys(OUTCOMES).filter((name) => outcomes[name]);
  return Object.fromEntries(known.map((name) => [name, [OUTCOMES[name], outcomes[name]]]));
}

function counted(counts) {
  return Object.fromEntries(Object.entries(counts).map(([n, c]) => [n, [n.replaceAll("_", " "), c]]));
}

function options(id, all, entries) {
  const select = $(id);
  const chosen = select.value;
  const made = Object.entries(entries).map(([name, [label, count]]) => new Option(`${label} (${count.toLocaleString()})`, name));
  if (chosen && !(chosen in entries)) made.push(new Option(`${chosen.replaceAll("_", " ")} (0)`, chosen));
  select.replaceChildren(new Option(all, ""), ...made);
  select.value = chosen;
}

async function load(at = 0) {
  const mine = (asked += 1);
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, $(name).value]));
  wanted.text = $("text").value;
  remember(wanted);
  try {
    const found = await api.get("view", wanted);
    if (mine !== asked) return;
    if (found.state === "reading") {
      $("count").textContent = `Reading … ${found.read.toLocaleString()}`;
      setTimeout(() => { if (mine === asked) load(at); }, READING);
      return;
    }
    view = found.view;
    loaded = found.facets.total;
    worked = false;
    tell(found);
    $("count").textContent = found.total === 1 ? "1 caption" : `${found.total.toLocaleString()} captions`;
    $("empty-why").textContent = found.facets.total ? "No caption is like that." : "There are no captions here yet.";
    $("all").hidden = !found.facets.total;
    $("empty").hidden = found.total > 0;
    // The grid is measured beside the detail as it will be.
    if (!found.total || PHONE.matches) detail.hide();
    grid.reset(found.total, found.items);
    if (found.total && (at > 0 || !PHONE.matches)) grid.choose(at);
  } catch (error) {
    say(error.message);
  }
}

function remember(wanted) {
  const some = Object.entries(wanted).filter(([, value]) => value);
  const query = new URLSearchParams(some).toString();
  history.replaceState(history.state, "", query ? `?${query}` : location.pathname);
}

let undoing = Promise.resolve();

// One after another, however fast the key is pressed: each takes back what is the last one then.
function undo() {
  undoing = undoing.then(async () => {
    await detail.save();
    const waited = changes.lines.size > 0;
    await changes.idle();
    try {
      if (waited) tell(await api.get("status")); // answers may have overtaken each other
    } catch (error) {
      return say(error.message);
    }
    if (!status.undo) return say("There is nothing to undo.");
    return back({ edit: status.undo.id }, status.undo.key);
  });
  return undoing;
}

async function back(body, key) {
  try {
    arrived(await api.post("undo", body), `Undone: ${key}`);
  } catch (error) {
    if (error.code === "stale") {
      tell(error.body);
      const next = status.undo ? `Undo would now take back that of ${status.undo.key}.` : "";
      say(`${sentence(error.message)} ${next}`.trim());
    } else if (error.code !== "conflict" || !error.item) say(error.message);
    else leaveOrForce(error, body, key);
  }
}

function leaveOrForce(error, body, key) {
  open(error.item);
  detail.choices(error.message, error.item.caption, "Leave it", async () => {
    tell(await api.post("leave", { edit: body.edit }));
  }, "Undo anyway", () => back({ edit: body.edit, force: true }, key));
}

function isOpen() {
  return $("review").classList.contains("open");
}

function open(item) {
  detail.show(item);
  moved();
  if (isOpen()) return;
  $("review").classList.add("open");
  if (!PHONE.matches) return;
  history.pushState({ open: true }, ""); // so that Back closes it
  $("detail").focus({ preventScroll: true });
}

function close() {
  if (history.state?.open) history.back();
  else shut();
}

function shut() {
  if (PHONE.matches) document.activeElement?.blur(); // which saves what was typed
  $("review").classList.remove("open");
  $("grid").focus({ preventScroll: true });
}

function step(by) {
  grid.choose(grid.chosen < 0 ? 0 : grid.chosen + by);
}

listen({ detail, grid, step, undo, close, isOpen, isPhone: () => PHONE.matches });
$("undo").addEventListener("click", undo);
$("more").addEventListener("click", () => load());
$("all").addEventListener("click", () => {
  for (const name of [...FILTERS, "text"]) $(name).value = "";
  $("grid").focus({ preventScroll: true });
  load();
});
$("back").addEventListener("click", close);
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("keys").addEventListener("click", () => $("help").showModal());
$("tools").addEventListener("submit", (event) => { event.preventDefault(); load(); });
for (const name of FILTERS) $(name).addEventListener("change", () => load());
$("text").addEventListener("input", () => {
  clearTimeout(load.timer);
  load.timer = setTimeout(() => load(), TYPING);
});
addEventListener("beforeunload", (event) => { if (changes.busy) event.preventDefault(); });
addEventListener("popstate", ({ state }) => {
  if (!state?.open) shut();
  else if (detail.item) $("review").classList.add("open");
});

let reachable = true; // what is wrong for long is said once

setInterval(async () => {
  if (document.hidden || !view) return;
  try {
    tell(await api.get("status"));
    reachable = true;
  } catch (error) {
    if (reachable) say(error.message);
    reachable = false;
  }
}, POLL);

const given = new URLSearchParams(location.search);
for (const name of FILTERS) {
  const value = given.get(name);
  if (!value) continue;
  $(name).append(new Option(value.replaceAll("_", " "), value));
  $(name).value = value;
}
$("text").value = given.get("text") ?? "";
$("grid").focus({ preventScroll: true });
if (history.state?.open) history.back(); // the page was loaded anew while a caption was open
load();
