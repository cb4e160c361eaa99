// Parses the text of a block into plain data: emphasis, code, links, math. `inline.js` draws it.
//
// The algorithm is CommonMark's: marks and brackets are put on a stack, and looked at again when a closing mark follows.
// Each is looked at a fixed number of times, however many there are.

import { readAngled, readBare, readTarget, safeLink } from "./addresses.js";
import { readEntity } from "./entities.js";
import { Emphasis } from "./emphasis.js";
import { labelOf, runLength } from "./markdown.js";

const LABEL_CHARS_MAX = 200; // a longer text is not the label of a reference

const SPECIAL = /[\\`*_~[\]!<&$\n]|https?:\/\//g;
const NOTE = /\[\^([^\]\s[]{1,100})\]/y;
const PUNCTUATION = /[!-/:-@[-`{-~]/;

/**
 * Returns nodes: text {text}, br, code {text}, math {text}, em, strong, del {nodes}, link and image {href, nodes}, note {label}.
 * `lookup` returns the address of a reference's label and the name of a footnote's (`^1`), or nothing.
 */
export function parseSpans(text, lookup = () => undefined) {
  return new Reader(text, lookup).read();
}

/** Mutable: everything, while a text is parsed. `line` holds the nodes, and the marks that may become emphasis. */
class Reader {
  brackets = []; // `[` and `![` that are open: {node, mark, at, image}
  closed = 0; // brackets below this one contain a link, and links cannot be nested
  drawn = 0; // brackets below this one contain an image, and images cannot be nested
  line = new Emphasis();
  found = new Map(); // searched text -> its last found position

  constructor(text, lookup) {
    Object.assign(this, { text, lookup, at: 0 });
  }

  read() {
    const { text } = this;
    while (this.at < text.length) {
      SPECIAL.lastIndex = this.at;
      const next = SPECIAL.exec(text)?.index ?? text.length;
      if (next > this.at) this.line.text(text.slice(this.at, next));
      this.at = next;
      if (next < text.length) this.#special(text[next]);
    }
    return this.line.end();
  }

  #special(char) {
    const before = this.at;
    READ[char](this);
    if (this.at === before) this.#plain(1);
  }

  #plain(chars) {
    this.line.text(this.text.slice(this.at, this.at + chars));
    this.at += chars;
  }

  add(node, end) {
    this.line.add(node);
    this.at = end;
  }

  /** Returns the next position of the text from `from` on, or -1. Queries in ascending order search each stretch once. */
  next(wanted, from) {
    const known = this.found.get(wanted);
    if (known !== undefined && (known < 0 || known >= from)) return known;
    const at = this.text.indexOf(wanted, from);
    this.found.set(wanted, at);
    return at;
  }

  code() {
    const length = runLength(this.text, this.at);
    this.ticks ??= runsOf(this.text, "`");
    const close = this.ticks.get(length)?.after(this.at);
    if (close === undefined) return this.#plain(length);
    const code = this.text.slice(this.at + length, close).replaceAll("\n", " ");
    const padded = code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "";
    this.add({ type: "code", text: padded ? code.slice(1, -1) : code }, close + length);
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (next === "(" && this.#math("\\)", this.next("\\)", this.at + 2))) return;
    if (next === "[" && this.#math("\\]", this.next("\\]", this.at + 2))) return;
    if (next === "\n") this.add({ type: "br" }, this.at + 2);
    else if (PUNCTUATION.test(next)) this.add({ type: "text", text: next }, this.at + 2);
  }

  /** Math between dollars: `$x$` without spaces inside its ends, and no digit after the second, as in prices. */
  dollar() {
    const { text, at } = this;
    if (text[at + 1] === "$") return this.#math("$$", this.next("$$", at + 2)) || this.#plain(runLength(text, at));
    const close = text.indexOf("$", at + 1); // only the next dollar, so that each stretch is searched once
    const fits = close > at + 1 && !/\s/.test(text[at + 1]) && !/[\s\\]/.test(text[close - 1]) && !/\d/.test(text[close + 1] ?? "");
    return fits ? this.#math("$", close) : this.#plain(1);
  }

  #math(mark, close) {
    if (close < 0) return false;
    const end = close + mark.length;
    this.add({ type: "math", text: this.text.slice(this.at, end) }, end);
    return true;
  }

  mark(char) {
    const { text, at } = this;
    const length = runLength(text, at);
    const [before, after] = [text[at - 1] ?? " ", text[at + length] ?? " "];
    const word = char === "_"; // inside a word it is an ordinary character
    const canOpen = !/\s/.test(after) && !(word && /[\p{L}\p{N}_]/u.test(before));
    const canClose = !/\s/.test(before) && !(word && /[\p{L}\p{N}_]/u.test(after));
    if ((char === "~" && length !== 2) || !(canOpen || canClose)) return this.#plain(length);
    this.line.mark({ char, length, canOpen, canClose });
    this.at += length;
  }

  open(image) {
    if (!image && this.#note()) return;
    const mark = this.line.mark({ char: image ? "![" : "[", length: 1, canOpen: false, canClose: false });
    this.brackets.push({ mark, at: this.at, image });
    this.at += image ? 2 : 1;
  }

  #note() {
    NOTE.lastIndex = this.at;
    const match = NOTE.exec(this.text);
    if (!match || !this.lookup(`^${match[1]}`)) return false;
    this.add({ type: "note", label: match[1] }, this.at + match[0].length);
    return true;
  }

  close() {
    const open = this.brackets.pop();
    if (!open) return;
    const place = this.brackets.length;
    const isOpen = place >= this.closed && !(open.image && place < this.drawn);
    const target = isOpen ? this.#targetOf(open) : null;
    if (target) {
      this.line.wrap(open.mark, { type: open.image ? "image" : "link", href: target.href });
      this.at = target.end;
    }
    this.closed = target && !open.image ? place : Math.min(this.closed, place);
    this.drawn = target && open.image ? place : Math.min(this.drawn, place);
  }

  /** Returns the target of the label from `open` to here: by an address, by another label, or by itself. */
  #targetOf(open) {
    const { text, at } = this;
    if (text[at + 1] === "(") {
      const target = readTarget(text, at + 1);
      if (target) return target;
    }
    const label = text.slice(open.at + (open.image ? 2 : 1), Math.min(at, open.at + LABEL_CHARS_MAX + 3));
    const second = text[at + 1] === "[" ? text.slice(at + 2, at + 2 + LABEL_CHARS_MAX).indexOf("]") : -1;
    const named = second > 0 ? text.slice(at + 2, at + 2 + second) : label;
    if (named.length > LABEL_CHARS_MAX || named.startsWith("^")) return null;
    const href = safeLink(this.lookup(labelOf(named)) ?? "");
    return href ? { href, end: second >= 0 ? at + 3 + second : at + 1 } : null;
  }

  angle() {
    const found = readAngled(this.text, this.at);
    if (found) this.#link(found);
  }

  address() {
    const found = /[\p{L}\p{N}_]/u.test(this.text[this.at - 1] ?? "") ? null : readBare(this.text, this.at);
    if (found) this.#link(found);
  }

  #link({ href, text, end }) {
    this.add({ type: "link", href, bare: true, nodes: [{ type: "text", text }] }, end);
  }

  entity() {
    const found = readEntity(this.text, this.at);
    if (found) this.add({ type: "text", text: found.text }, found.end);
  }
}

const READ = {
  "\\": (reader) => reader.escape(),
  "`": (reader) => reader.code(),
  "*": (reader) => reader.mark("*"),
  _: (reader) => reader.mark("_"),
  "~": (reader) => reader.mark("~"),
  "[": (reader) => reader.open(false),
  "!": (reader) => reader.text[reader.at + 1] === "[" && reader.open(true),
  "]": (reader) => reader.close(),
  "<": (reader) => reader.angle(),
  "&": (reader) => reader.entity(),
  $: (reader) => reader.dollar(),
  "\n": (reader) => reader.add({ type: "br" }, reader.at + 1),
  h: (reader) => reader.address(),
};

/** The positions of runs of a character, by length. Call `after` with ascending positions. */
function runsOf(text, char) {
  const runs = new Map();
  for (let at = text.indexOf(char); at >= 0; ) {
    const length = runLength(text, at);
    if (!runs.has(length)) runs.set(length, new Places());
    runs.get(length).places.push(at);
    at = text.indexOf(char, at + length);
  }
  return runs;
}

class Places {
  places = [];
  #next = 0;

  after(at) {
    while (this.places[this.#next] <= at) this.#next++;
    return this.places[this.#next];
  }
}
