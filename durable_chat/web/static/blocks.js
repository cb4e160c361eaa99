// Blocks of Markdown drawn as elements, and a drawing kept up to date while its text grows.

import { element, setText } from "./dom.js";
import { inline } from "./inline.js";
import { parseBlocks } from "./markdown.js";

const DRAW = {
  paragraph: (block) => element("p", {}, ...inline(block.text)),
  // A message is below the page's own heading, so its first level is the third.
  heading: (block) => element(`h${Math.min(6, block.level + 2)}`, { class: `level-${block.level}` }, ...inline(block.text)),
  rule: () => element("hr"),
  quote: (block) => element("blockquote", {}, ...block.blocks.map(drawBlock)),
  list: drawList,
  table: drawTable,
  code: drawCode,
};

export const drawBlock = (block) => DRAW[block.type](block);

function drawList(block) {
  const items = block.items.map((blocks) => element("li", {}, ...blocks.map(drawBlock)));
  return element(block.ordered ? "ol" : "ul", { start: block.ordered && block.start !== 1 ? block.start : null }, ...items);
}

function drawTable({ align, head, rows }) {
  const row = (tag, texts) =>
    element("tr", {}, ...align.map((side, i) => element(tag, { class: `align-${side}` }, ...inline(texts[i] ?? ""))));
  const body = element("tbody", {}, ...rows.map((texts) => row("td", texts)));
  // A wide table scrolls by itself, so the page does not; a keyboard reaches it.
  return element("div", { class: "table", tabindex: "0" }, element("table", {}, element("thead", {}, row("th", head)), body));
}

function drawCode({ language, text }) {
  const copy = element("button", { type: "button", class: "copy", "data-copy": true, "aria-label": "Copy this code" }, "Copy");
  const bar = element("div", { class: "code-bar" }, element("span", {}, language || "text"), copy);
  return element("div", { class: "code" }, bar, element("pre", { tabindex: "0" }, element("code", {}, text)));
}

/** One growing text. Only blocks whose source changed are drawn again: of a long answer, the last one. */
export class MarkdownView {
  #blocks = [];

  constructor(className = "prose") {
    this.element = element("div", { class: className });
  }

  update(text) {
    const blocks = parseBlocks(text);
    blocks.forEach((block, i) => this.#put(block, i));
    while (this.element.childElementCount > blocks.length) this.element.lastElementChild.remove();
    this.#blocks = blocks;
  }

  #put(block, i) {
    const before = this.#blocks[i];
    if (before?.source === block.source && before.type === block.type) return;
    const shown = this.element.children[i];
    if (before?.type === "code" && block.type === "code" && before.language === block.language) {
      setText(shown.querySelector("code"), block.text); // kept, with its scroll position
    } else if (shown) {
      shown.replaceWith(drawBlock(block));
    } else {
      this.element.append(drawBlock(block));
    }
  }
}
