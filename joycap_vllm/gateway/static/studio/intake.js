// Where pictures come from: the file chooser, a drop anywhere on the page, the clipboard.

let pasted = 0;

/** Calls `take` with lists of {file, path} as users bring them. */
export function listen({ drop, choose, input, take }) {
  choose.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
    input.value = ""; // so that the same file may be chosen again
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0 || isText(event)) return;
    event.preventDefault();
    take(files.map(named));
  });
  listenToDrops(drop, take);
}

function listenToDrops(drop, take) {
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  });
  document.addEventListener("drop", async (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    drop.classList.remove("over");
    take(await dropped(event.dataTransfer));
  });
}

// Office programs copy a text together with its picture; a text field is meant to get the text.
function isText({ target, clipboardData }) {
  return target.matches("input, textarea") && clipboardData.types.includes("text/plain");
}

// A screenshot in the clipboard is always called image.png.
function named(file) {
  if (!/^image\.\w+$/.test(file.name)) return { file, path: file.name };
  pasted += 1;
  return { file, path: `pasted-${pasted}.${file.name.split(".").pop()}` };
}

async function dropped(transfer) {
  // Entries must be had before the first await; after it the list is empty.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) {
    return [...transfer.files].map((file) => ({ file, path: file.name }));
  }
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found.filter(({ file }) => file.type.startsWith("image/") || file.type === "");
}

async function walk(entry, found) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
    if (file) found.push({ file, path: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader hands out a hundred at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []);
    if (some.length === 0) return;
    some.sort((a, b) => a.name.localeCompare(b.name));
    for (const inner of some) await walk(inner, found);
  }
}
