// The form on the left: kept between visits, and read into what the gateway is asked.

const KEPT = "joycap.studio";

/** What the gateway is asked, but for the picture; `first` is the type that is shown first. */
export function readAsk(form) {
  const data = new FormData(form);
  const first = data.get("type");
  const chosen = [...new Set([first, ...data.getAll("also")])];
  const number = (name) => (data.get(name) ? Number(data.get(name)) : null);
  const ask = {
    types: chosen.filter((name) => name !== "custom"),
    text: chosen.includes("custom") ? data.get("text") : "",
    extras: data.getAll("extras"),
    name: data.get("name") ?? "",
    system: data.get("system"),
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    seed: number("seed"),
  };
  if (data.get("length") === "words") ask.words = number("words");
  else ask.length = data.get("length") ?? "any"; // an own prompt alone has none
  return { first, ask };
}

/** Shows only the fields that mean something, and what is folded away in a few words. */
export function arrange(form) {
  const [type, length] = [field(form, "type"), field(form, "length")];
  for (const box of boxes(form, "also")) {
    box.disabled = box.value === type.value;
    box.closest("label").hidden = box.disabled;
  }
  const also = boxes(form, "also").filter((box) => box.checked && !box.disabled);
  const own = type.value === "custom" || also.some((box) => box.value === "custom");
  const extras = boxes(form, "extras").filter((box) => box.checked);
  const onlyOwn = own && type.value === "custom" && also.length === 0;
  offer(form.querySelector("#own"), own);
  offer(form.querySelector("#lengths"), !onlyOwn);
  offer(form.querySelector("#words-field"), !onlyOwn && length.value === "words", false);
  const [name, hidden] = [form.querySelector("#name-field"), form.querySelector("#name-field").hidden];
  offer(name, !onlyOwn && extras.some((b) => "needsName" in b.dataset));
  if (hidden && !name.hidden) name.scrollIntoView({ block: "nearest" });
  form.querySelector("#extras").hidden = onlyOwn;
  count(form, "#also", also.length ? `${also.length + 1} types` : "");
  count(form, "#extras", extras.length ? `${extras.length} chosen` : "");
  count(form, "#sampling", sampling(form.elements));
  count(form, "#fold", summary(form, also.length + 1), ".asked");
}

/** Narrows the extra options to those that hold all words, or are chosen while nothing is sought. */
export function find(form, words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  for (const option of form.querySelectorAll(".option")) {
    const text = option.textContent.toLowerCase() + option.querySelector("input").value;
    option.hidden = !wanted.every((word) => text.includes(word));
  }
  for (const group of form.querySelectorAll(".options fieldset")) {
    group.hidden = !group.querySelector(".option:not([hidden])");
  }
  form.querySelector(".none").hidden = Boolean(form.querySelector(".option:not([hidden])"));
}

/** Leads to the first field that is wrong; whether all are right. */
export function complain(form) {
  const wrong = form.querySelector(":invalid:not(fieldset)");
  if (!wrong) return true;
  const folded = wrong.closest("details");
  if (folded) folded.open = true;
  fold(form, true);
  wrong.reportValidity();
  return false;
}

/** Keeps the settings for the next visit. */
export function keep(form, more) {
  const values = { ...more };
  for (const { name, type, value, checked } of fields(form)) {
    if (type !== "checkbox") values[name] = value;
    else if (checked) (values[name] ??= []).push(value);
  }
  try {
    localStorage.setItem(KEPT, JSON.stringify(values));
  } catch {
    // A browser that keeps nothing: the page works without.
  }
}

/** Puts the kept settings back, as far as the form still knows them; returns them. */
export function recall(form) {
  let values = null;
  try {
    values = JSON.parse(localStorage.getItem(KEPT));
  } catch {
    // Kept by something else, or not to be had: as on the first visit.
  }
  if (values === null || typeof values !== "object") return {};
  for (const one of fields(form)) {
    const kept = values[one.name];
    if (one.type === "checkbox") one.checked = Array.isArray(kept) && kept.includes(one.value);
    else if (typeof kept === "string" && fits(one, kept)) one.value = kept;
  }
  return values;
}

function fits({ options }, value) {
  return !options || [...options].some((option) => option.value === value);
}

function fields(form) {
  return [...form.elements].filter((one) => one.name);
}

// By its name; `form.elements.length` is how many there are.
function field(form, name) {
  return form.elements.namedItem(name);
}

function boxes(form, name) {
  return [...form.querySelectorAll(`input[name="${name}"]`)];
}

function offer(part, offered, hide = true) {
  if (hide) part.hidden = !offered;
  else part.classList.toggle("away", !offered);
  for (const one of part.querySelectorAll("input, textarea, select")) one.disabled = !offered;
}

function count(form, part, words, where = ".count") {
  form.querySelector(`${part} ${where}`).textContent = words;
}

// All of it in a line, for where the form is folded away.
function summary(form, types) {
  const [type, length, words] = ["type", "length", "words"].map((name) => field(form, name));
  const title = type.selectedOptions[0].textContent;
  const first = types > 1 ? `${title} and ${types - 1} more` : title;
  if (length.disabled || length.value === "any") return first;
  return `${first}, ${length.value === "words" ? `${words.value} words` : length.value}`;
}

/** Shows the form on a narrow screen, or folds it away; a wide one always shows it. */
export function fold(form, open) {
  form.classList.toggle("open", open);
  form.querySelector("#fold").setAttribute("aria-expanded", String(open));
}

function sampling({ temperature, top_p: topP, max_tokens: most, seed }) {
  const words = `T ${temperature.value} · p ${topP.value} · ${most.value} tokens`;
  return seed.value ? `${words} · seed ${seed.value}` : words;
}
