// The studio: ties the form, the pictures and the queue together.

import { stayWhile } from "/static/studio/api.js";
import { copy, download, fileNames, oneLine, zip } from "/static/studio/files.js";
import { listen } from "/static/studio/intake.js";
import { Picture } from "/static/studio/picture.js";
import { Preview } from "/static/studio/preview.js";
import { Queue } from "/static/studio/queue.js";
import { arrange, complain, find, fold, keep, readAsk, recall } from "/static/studio/settings.js";

const at = (id) => document.getElementById(id);
const form = at("settings");
const mostBytes = Number(at("studio").dataset.mostBytes);
const preview = new Preview(at("prompt"));
const queue = new Queue(refresh);
const pictures = [];

function changed() {
  arrange(form);
  keep(form, { auto: at("auto").checked });
  if (form.checkValidity()) preview.update(readAsk(form));
  else preview.say(form.elements.text.matches(":invalid") ? "Write a prompt above." : "Mend the marked field above.");
}

function caption(some) {
  if (!complain(form)) return;
  const asked = readAsk(form);
  for (const picture of some) {
    picture.queue();
    queue.add(picture, (signal) => picture.caption(asked, mostBytes, signal));
  }
  refresh();
}

function add(brought) {
  const added = brought.map((file) => new Picture(file, actions));
  pictures.push(...added);
  at("pictures").append(...added.map((picture) => picture.element));
  refresh();
  if (at("auto").checked) caption(added);
}

// Asks before captions are lost that nobody has copied or downloaded.
function sure(some) {
  const lost = some.reduce((sum, picture) => sum + picture.untaken, 0);
  const words = lost === 1 ? "1 caption was" : `${lost} captions were`;
  return lost === 0 || confirm(`${words} neither copied nor downloaded. Remove ${lost === 1 ? "it" : "them"}?`);
}

function remove(picture) {
  queue.cancel(picture);
  picture.release();
  picture.element.remove();
  pictures.splice(pictures.indexOf(picture), 1);
  refresh();
  (pictures.length ? at("go") : at("choose")).focus();
}

function cancel() {
  const waiting = pictures.filter((picture) => queue.has(picture));
  queue.cancel();
  waiting.forEach((picture) => picture.cancel());
  refresh();
}

function types(picture) {
  const names = picture.answers.map((answer) => answer.name);
  return [...names].sort((a, b) => (b === picture.first) - (a === picture.first));
}

function named() {
  const names = fileNames(pictures.map((picture) => ({ path: picture.path, types: types(picture) })));
  return new Map(pictures.map((picture, i) => [picture, new Map(types(picture).map((type, j) => [type, names[i][j]]))]));
}

function save(picture, answer) {
  const text = new Blob([oneLine(answer.caption) + "\n"], { type: "text/plain" });
  download(named().get(picture).get(answer.name), text);
  answer.taken();
}

function saveAll() {
  const names = named();
  const entries = pictures.flatMap((picture) =>
    picture.captions.map((answer) => [names.get(picture).get(answer.name), oneLine(answer.caption) + "\n"]),
  );
  download("captions.zip", zip(entries));
  pictures.forEach((picture) => picture.captions.forEach((answer) => answer.taken()));
}

const actions = {
  again: (picture) => caption([picture]),
  remove: (picture) => sure([picture]) && remove(picture),
  save,
  changed: refresh,
};

function refresh() {
  const some = pictures.length;
  at("drop").classList.toggle("small", some > 0);
  at("actions").hidden = some === 0;
  at("go").textContent = some === 1 ? "Caption 1 picture" : `Caption ${some} pictures`;
  at("cancel").disabled = queue.size === 0;
  at("zip").disabled = !pictures.some((picture) => picture.captions.length > 0);
  const words = some === 0 ? "" : standing();
  if (at("said").textContent !== words) at("said").textContent = words;
}

function standing() {
  const answers = pictures.flatMap((picture) => picture.answers);
  const over = pictures.filter((picture) => picture.over && !queue.has(picture)).length;
  const good = answers.filter((answer) => answer.caption !== null).length;
  const glitches = answers.reduce((sum, answer) => sum + answer.glitches, 0);
  const words = [`${over} of ${pictures.length} done`, several(good, "caption")];
  if (glitches) words.push(`${several(glitches, "glitch", "es")} caught`);
  return words.join(" · ");
}

function several(number, word, ending = "s") {
  return `${number} ${word}${number === 1 ? "" : ending}`;
}

form.addEventListener("input", (event) => {
  if (event.target.id === "find") find(form, event.target.value);
  else changed();
});
form.addEventListener("submit", (event) => event.preventDefault());
for (const part of form.querySelectorAll("details")) {
  part.addEventListener("toggle", () => part.open && part.scrollIntoView({ block: "nearest" }));
}
at("auto").addEventListener("change", changed);
at("fold").addEventListener("click", () => fold(form, !form.classList.contains("open")));
at("defaults").addEventListener("click", () => {
  form.reset();
  find(form, "");
  changed();
});
at("go").addEventListener("click", () => caption(pictures));
at("cancel").addEventListener("click", cancel);
at("zip").addEventListener("click", saveAll);
at("clear").addEventListener("click", () => {
  if (sure(pictures)) while (pictures.length) remove(pictures[0]);
});
at("copy-prompt").addEventListener("click", (event) => copy(preview.text, event.currentTarget));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || pictures.length === 0) return;
  event.preventDefault(); // else a focused button would be pressed as well
  caption(pictures);
});
addEventListener("beforeunload", (event) => {
  if (queue.size > 0 || pictures.some((picture) => picture.untaken)) event.preventDefault();
});
stayWhile(() => pictures.some((picture) => picture.untaken));
listen({ drop: at("drop"), choose: at("choose"), input: at("files"), take: add });

at("auto").checked = recall(form).auto !== false;
changed();
