// Draws blocks of Markdown as elements, and updates them while the text grows.
//
// Each block has its own direction (`dir="auto"`), so that a text may mix Arabic and English.

import { element } from "./dom.js";
import { GrowingText } from "./growing.js";
import { highlight } from "./highlight.js";
import { inline } from "./inline.js";

const DRAW = new Map([
  ["paragraph", ({ text }, lookup) => element("p", {}, inline(text, lookup))],
  // The page has headings of its own above a message, so a message's headings start at level 3.
  ["heading", ({ level, text }, lookup) => element(`h${Math.min(6, level + 2)}`, { class: `level-${level}` }, inline(text, lookup))],
  ["rule", () => element("hr")],
  ["math", ({ text }) => element("div", { class: "math", tabindex: "0" }, text)],
  ["quote", ({ blocks }, lookup) => element("blockquote", {}, drawAll(blocks, lookup))],
  ["list", drawList],
  ["table", drawTable],
  ["code", drawCode],
  ["footnote", drawFootnote],
  ["definition", () => element("span", { hidden: true })], // invisible, so that indexes of blocks and elements stay equal
]);
const LEFT_TO_RIGHT = new Set(["code", "math"]);

export const drawBlock = (block, lookup) => DRAW.get(block.type)(block, lookup);

const drawAll = (blocks, lookup) => blocks.map((block) => drawBlock(block, lookup));

function drawList({ ordered, start, items, checked }, lookup) {
  const drawn = items.map((blocks, i) => drawItem(drawAll(blocks, lookup), checked[i]));
  return element(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : null }, drawn);
}

/** The box of a task is not a control, because users cannot change it. */
function drawItem(blocks, done) {
  if (done === null) return element("li", {}, blocks);
  const box = element("span", { class: "task", role: "img", "aria-label": done ? "Done:" : "To do:" }, done ? "☑" : "☐");
  return element("li", { class: "task-item" }, box, element("div", {}, blocks));
}

function drawTable({ align, head, rows }, lookup) {
  const row = (tag, texts) =>
    element("tr", {}, align.map((side, i) => element(tag, { class: `align-${side}` }, inline(texts[i] ?? "", lookup))));
  const body = element("tbody", {}, rows.map((texts) => row("td", texts)));
  // A wide table scrolls on its own, so that the page does not. It can be focused with the keyboard.
  return element("div", { class: "table", tabindex: "0" }, element("table", {}, element("thead", {}, row("th", head)), body));
}

function drawFootnote({ label, blocks }, lookup) {
  const body = element("div", {}, drawAll(blocks, lookup));
  return element("div", { class: "footnote", tabindex: "-1", "data-footnote": label }, element("sup", {}, label), body);
}

function drawCode({ language, text, open }) {
  const copy = element("button", { type: "button", class: "copy", "data-copy": true, "aria-label": "Copy this code" }, "Copy");
  const bar = element("div", { class: "code-bar" }, element("span", {}, language || "text"), copy);
  // While it is incomplete, it is one growing text.
  const code = open ? [document.createTextNode(text)] : highlight(text, language).map(piece);
  return element("div", { class: "code" }, bar, element("pre", { tabindex: "0" }, element("code", {}, code)));
}

const piece = ({ kind, text }) => (kind ? element("span", { class: `is-${kind}` }, text) : document.createTextNode(text));

/** A growing text. Only changed blocks are drawn again, that is, the last ones. */
export class MarkdownView {
  #text = new GrowingText();
  #drawn = []; // the content of each element: {type, source}

  constructor(className = "prose") {
    this.element = element("div", { class: className });
  }

  update(text) {
    const { from, more } = this.#text.update(text);
    if (more !== undefined) {
      this.element.lastElementChild.querySelector("code").lastChild.appendData(more);
      this.#drawn.at(-1).source = null; // drawn once more when the code is complete
      return;
    }
    const { blocks, references } = this.#text;
    const touched = references.touched();
    for (let i = from; i < blocks.length; i++) {
      const before = this.#drawn[i];
      if (before?.source !== blocks[i].source || before.type !== blocks[i].type || touched.has(i)) this.#put(i);
      touched.delete(i);
    }
    for (const i of touched) if (i < from) this.#put(i);
    this.#drawn.length = blocks.length;
    while (this.element.childElementCount > blocks.length) this.element.lastElementChild.remove();
  }

  #put(i) {
    const { blocks, references } = this.#text;
    const made = drawBlock(blocks[i], (label) => references.lookup(label, i));
    made.dir = LEFT_TO_RIGHT.has(blocks[i].type) ? "ltr" : "auto";
    const shown = this.element.children[i];
    const scrolled = blocks[i].type === "code" ? shown?.querySelector("pre")?.scrollLeft : 0;
    if (shown) shown.replaceWith(made);
    else this.element.append(made);
    if (scrolled) made.querySelector("pre").scrollLeft = scrolled;
    this.#drawn[i] = { type: blocks[i].type, source: blocks[i].source };
  }
}
