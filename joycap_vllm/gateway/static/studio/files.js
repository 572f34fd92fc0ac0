// Captions as files: their names, and a .zip of them all.

/**
 * The name of each caption's file, as `joycap caption` names sidecars: STEM.txt for the first type
 * of a picture, STEM.TYPE.txt for the others; where two pictures would share a name, the first
 * keeps it and the others get all of their own name.
 *
 * @param pictures [{path, types: [first, ...]}] in the order shown.
 * @returns [[name of each type], ...]
 */
export function fileNames(pictures) {
  const taken = new Set();
  return pictures.map(({ path, types }) => {
    const stem = path.replace(/(?<=[^/])\.[^./]*$/, "");
    for (let count = 0; ; count++) {
      const base = count === 0 ? stem : count === 1 ? path : `${path} (${count})`;
      const names = types.map((type, i) => (i === 0 ? `${base}.txt` : `${base}.${type}.txt`));
      if (names.some((name) => taken.has(name.toLowerCase()))) continue;
      names.forEach((name) => taken.add(name.toLowerCase()));
      return names;
    }
  });
}

/** A caption as trainers read it: one line. */
export function oneLine(text) {
  return text.trim().replace(/\s*[\n\r\v\f\u0085\u2028\u2029]\s*/g, " ");
}

/** Hands a file to the user. */
export function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.split("/").pop();
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Puts a text into the clipboard, and says so on the button. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyTheOldWay(text);
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

// A page that came without TLS from another machine has no clipboard, and others may be denied it.
function copyTheOldWay(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  const back = document.activeElement;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  back?.focus();
}

/**
 * An archive of texts, stored as they are: captions are small.
 *
 * @param entries [[name, text], ...]
 */
export function zip(entries, now = new Date()) {
  const encoder = new TextEncoder();
  const parts = [];
  const index = [];
  let offset = 0;
  for (const [name, text] of entries) {
    const [file, data] = [encoder.encode(name), encoder.encode(text)];
    const facts = describe(data, file.length, now);
    const head = new Uint8Array([...u32(0x04034b50), ...facts, ...file]);
    index.push(new Uint8Array([
      ...u32(0x02014b50), ...u16(20), ...facts,
      ...u16(0), ...u16(0), ...u16(0), ...u32(0), ...u32(offset), ...file,
    ]));
    parts.push(head, data);
    offset += head.length + data.length;
  }
  const size = index.reduce((sum, entry) => sum + entry.length, 0);
  const end = new Uint8Array([
    ...u32(0x06054b50), ...u16(0), ...u16(0), ...u16(index.length), ...u16(index.length),
    ...u32(size), ...u32(offset), ...u16(0),
  ]);
  return new Blob([...parts, ...index, end], { type: "application/zip" });
}

// The part that an entry and its line in the index share.
function describe(data, nameLength, now) {
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const day = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  const utf8 = 0x0800;
  return [
    ...u16(20), ...u16(utf8), ...u16(0), ...u16(time), ...u16(day),
    ...u32(crc(data)), ...u32(data.length), ...u32(data.length), ...u16(nameLength), ...u16(0),
  ];
}

function u16(value) {
  return [value & 255, (value >>> 8) & 255];
}

function u32(value) {
  return [...u16(value), ...u16(value >>> 16)];
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

function crc(data) {
  let sum = -1;
  for (const byte of data) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}
