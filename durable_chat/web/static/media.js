// Files in a message: images are shown, audio and video are played, other files are download links.

import { element } from "./dom.js";
import { safeAddress } from "./addresses.js";
import { nameOf, recordOr, textOr } from "./shapes.js";

const FILE_ROUTE = "/api/chat-artifact";
const PICTURE = /^image\/(png|jpeg|gif|webp|avif)$/;
const SOUND = /^audio\/[\w.+-]+$/;
const VIDEO = /^video\/[\w.+-]+$/;

/** One file. `act.file(address)` returns the blob of a file of this chat if a token is needed, else null. */
export class MediaView {
  element = element("div", { class: "media" });
  #address; // undefined until a file is shown, null for a source without an address

  constructor(act) {
    this.act = act;
  }

  update(part) {
    const address = addressOf(part.source);
    if (address === this.#address) return;
    this.#address = address;
    this.#draw(part, address).then((made) => this.#put(address, made), () => this.#put(address, chip(`The ${part.type} could not be loaded`)));
  }

  /** Keeps the previous image until the next is loaded, so that nothing flickers when the message reaches the log. */
  #put(address, made) {
    if (address === this.#address) this.element.replaceChildren(made);
  }

  async #draw(part, address) {
    if (!address) return chip(`Attached: ${part.type}`);
    const type = textOr(part.source.mimeType).split(";")[0].trim().toLowerCase();
    const own = address.startsWith("data:") || isOwn(address);
    if (!own) return link(address, `Open the ${part.type}`); // nothing is loaded from another site without a click
    if (part.type === "image" && PICTURE.test(type)) return picture(await this.#source(address), nameOf(part));
    if (part.type === "audio" && SOUND.test(type)) return this.#player("audio", part, address);
    if (part.type === "video" && VIDEO.test(type)) return this.#player("video", part, address);
    return this.#download(part, address, type);
  }

  async #player(tag, part, address) {
    const name = nameOf(part);
    const player = element(tag, { src: await this.#source(address), controls: true, preload: "metadata", "aria-label": name });
    return element("figure", {}, player, name ? element("figcaption", { class: "hint", dir: "auto" }, name) : null);
  }

  /** Returns the address, or that of a blob if a token is needed or the message contains the data. */
  async #source(address) {
    const blob = address.startsWith("data:") ? await blobOf(address) : await this.act.file?.(address);
    return blob ? URL.createObjectURL(blob) : address;
  }

  /** Saves the file and never opens it: it comes from a user, so it gets no type that a browser would show as a page. */
  #download(part, address, type) {
    const name = nameOf(part);
    const label = name ?? `the ${part.type}${type ? ` (${type})` : ""}`;
    const made = link(address, `Save ${label}`, { download: name ?? "", dir: "auto" });
    let fetched = false;
    made.addEventListener("click", async (event) => {
      if (fetched) return;
      event.preventDefault();
      const loading = address.startsWith("data:") ? blobOf(address) : this.act.file?.(address);
      const blob = await Promise.resolve(loading).catch(() => null);
      if (blob) made.href = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
      fetched = true;
      made.click();
    });
    return made;
  }
}

/** Waits until the image is loaded, so that it replaces the previous one without a gap. */
async function picture(source, name) {
  const made = element("img", { alt: name ?? "Picture in this message", title: name });
  made.src = source;
  await made.decode();
  if (source.startsWith("blob:")) URL.revokeObjectURL(source);
  return made;
}

async function blobOf(address) {
  const [head, text] = address.split(",", 2);
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Blob([bytes], { type: head.slice("data:".length).split(";")[0] });
}

const chip = (text) => element("span", { class: "chip" }, text);
const link = (href, text, more = {}) => element("a", { class: "chip", href, target: "_blank", rel: "noopener noreferrer", ...more }, text);

/** Returns the address of a file that this server keeps, or null. */
export function ownAddress(source) {
  const address = recordOr(source).type === "url" ? addressOf(source) : null;
  return address && isOwn(address) ? address : null;
}

function isOwn(address) {
  const { origin, pathname } = new URL(address);
  return origin === location.origin && pathname.endsWith(FILE_ROUTE);
}

/** Returns a `data:` address in base64, an http address, one on this server, or null. */
function addressOf(source) {
  const value = textOr(recordOr(source).value, null);
  if (value === null) return null;
  if (source.type === "data") return `data:${textOr(source.mimeType)};base64,${value}`;
  return URL.canParse(value, document.baseURI) ? safeAddress(new URL(value, document.baseURI).href) : null;
}
