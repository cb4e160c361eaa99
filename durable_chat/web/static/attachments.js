// Files in the composer: selected, dropped or pasted, shown as chips, and sent with the next message.

import { newId } from "./durable-chat-reads.js";
import { element, setText } from "./dom.js";
import { ownAddress } from "./media.js";
import { nameOf } from "./shapes.js";

export const FILES_MAX = 8; // more leave no room for the text
export const FILE_BYTES_MAX = 20 * 1024 * 1024; // the server's own limit where nothing else is set
export const ALL_BYTES_MAX = 23 * 1024 * 1024; // as base64 they fit into the largest body that the server accepts

const KINDS = ["image", "audio", "video"];
const TEXT = { csv: "text/csv", md: "text/markdown", txt: "text/plain", log: "text/plain", py: "text/plain", js: "text/plain", json: "text/plain" };

/** Mutable: the files, each `{key, name, size, part, chip}`; `part` is set once it is read. `changed` is called after each change. */
export class Attachments {
  #files = [];

  constructor({ list, picker, button, text, drop, changed, refuse }) {
    Object.assign(this, { list, button, changed, refuse });
    button.addEventListener("click", () => picker.click());
    picker.addEventListener("change", () => {
      this.add(picker.files);
      picker.value = "";
    });
    text.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    // Accepted anywhere in the window. Otherwise the browser opens a dropped file in place of the page.
    addEventListener("dragover", (event) => {
      if (!hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      drop.toggleAttribute("data-drop", true);
    });
    for (const type of ["dragleave", "drop", "dragend"]) addEventListener(type, () => drop.toggleAttribute("data-drop", false));
    addEventListener("drop", (event) => {
      if (hasFiles(event.dataTransfer)) event.preventDefault();
      this.#take(event, event.dataTransfer);
    });
  }

  /** True if there are files and all of them have been read. */
  get ready() {
    return this.#files.length > 0 && !this.reading;
  }

  get reading() {
    return this.#files.some((file) => !file.part);
  }

  get name() {
    return this.#files[0]?.name ?? "";
  }

  #take(event, transfer) {
    if (!hasFiles(transfer) || !transfer.files.length) return; // the browser handles text
    event.preventDefault();
    this.add(transfer.files);
  }

  add(files) {
    if (this.button.hidden) return this.refuse("This chat takes no files.");
    for (const file of files) {
      const sum = this.#files.reduce((bytes, { size }) => bytes + size, file.size);
      if (this.#files.length >= FILES_MAX) return this.refuse(`A message takes at most ${FILES_MAX} files.`);
      if (file.size > FILE_BYTES_MAX) this.refuse(`“${file.name}” is larger than ${shownSize(FILE_BYTES_MAX)}.`);
      else if (sum > ALL_BYTES_MAX) this.refuse(`The files of one message have at most ${shownSize(ALL_BYTES_MAX)} together.`);
      else this.#add(file);
    }
  }

  async #add(file) {
    const added = { key: newId(), name: file.name, size: file.size, part: null };
    added.chip = this.#chip(added, file);
    this.#files.push(added);
    this.list.append(added.chip);
    this.#change();
    try {
      added.part = await partOf(file);
    } catch {
      this.#remove(added.key); // a folder, or a file that was removed
      this.refuse(`“${file.name}” cannot be read.`);
    }
    this.#change();
  }

  #chip({ key, name, size }, file) {
    const remove = element("button", { type: "button", class: "icon", "aria-label": `Remove “${name}”`, title: "Remove" }, "✕");
    remove.addEventListener("click", () => this.#remove(key));
    const text = element("span", { class: "attached-name", title: name });
    setText(text, `${name} · ${shownSize(size)}`);
    const preview = kindOf(file.type) === "image" ? element("img", { alt: "", src: URL.createObjectURL(file) }) : null;
    preview?.addEventListener("load", () => URL.revokeObjectURL(preview.src), { once: true });
    return element("li", { class: "attached" }, preview, text, remove);
  }

  #remove(key) {
    const at = this.#files.findIndex((file) => file.key === key);
    if (at >= 0) this.#files.splice(at, 1)[0].chip.remove();
    this.#change();
  }

  #change() {
    this.list.hidden = !this.#files.length;
    this.changed();
  }

  /** Returns the parts of the next message and empties the composer. */
  take() {
    const parts = this.#files.map(({ part }) => part);
    this.clear();
    return parts;
  }

  /** Puts the files of a withdrawn message back into the composer. */
  /** Adds the files of a message that was taken back. `read` returns those that the server keeps. */
  async restore(parts, read) {
    this.add(parts.filter(({ source }) => source?.type === "data").map(fileOf));
    for (const part of parts) {
      const address = ownAddress(part.source); // nothing is loaded from another site, and no token sent there
      const blob = address && (await read(address).catch(() => null)); // what cannot be read can be attached again
      if (blob) this.add([new File([blob], nameOf(part) ?? part.type, { type: part.source.mimeType ?? blob.type })]);
    }
  }

  clear() {
    for (const { chip } of this.#files.splice(0)) chip.remove();
    this.#change();
  }
}

const hasFiles = (transfer) => [...(transfer?.types ?? [])].includes("Files");

function kindOf(type) {
  const kind = type.split("/")[0];
  return KINDS.includes(kind) ? kind : "document";
}

async function partOf(file) {
  const mimeType = file.type || TEXT[file.name.split(".").at(-1).toLowerCase()] || "application/octet-stream";
  const value = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
  return { type: kindOf(mimeType), source: { type: "data", value: file.size ? value : "", mimeType }, metadata: { filename: file.name } };
}

function fileOf({ source, metadata }) {
  const bytes = Uint8Array.from(atob(source.value), (char) => char.charCodeAt(0));
  return new File([bytes], metadata?.name ?? metadata?.filename ?? source.mimeType, { type: source.mimeType });
}

export function shownSize(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  return bytes < 1024 * 1024 ? `${Math.ceil(bytes / 1024)} KB` : `${(bytes / 1024 / 1024).toFixed(1).replace(/\.0$/, "")} MB`;
}
