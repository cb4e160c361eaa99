// A text that grows, as blocks: what is read again when more of it comes is its end, and not the whole.

import { closesFence, codeLine, parseBlocks } from "./markdown.js";

// Where a block ends is decided by the first line after it. With two blocks behind it, that line is complete.
const UNSETTLED_BLOCKS = 2;

/** Mutable: all of it. `blocks` are those of the text so far; `references` knows what their labels stand for. */
export class GrowingText {
  blocks = [];
  references = new References();
  #text = "";
  #settled = { blocks: 0, chars: 0 };

  /** Takes the text as it is now. Gives back the number of the first block that may have changed, or the code that grew: `{from}` or `{more}`. */
  update(text) {
    const before = this.#text;
    this.#text = text;
    if (text === before) return { from: this.blocks.length };
    const grown = text.slice(0, before.length) === before; // compared as a block, many times faster than startsWith
    if (grown) {
      const more = this.#growCode(before.length, text);
      if (more !== null) return { from: this.blocks.length, more };
    } else {
      this.#settled = { blocks: 0, chars: 0 };
    }
    const { blocks: from, chars } = this.#settled;
    const tail = parseBlocks(text.slice(chars));
    this.blocks.length = from;
    for (const block of tail) this.blocks.push(Object.assign(block, { from: chars + block.from }));
    this.references.replace(from, tail);
    const settling = Math.max(0, tail.length - UNSETTLED_BLOCKS);
    if (settling) this.#settled = { blocks: from + settling, chars: tail[settling].from };
    return { from };
  }

  /** Code without an end yet takes what comes, until a line ends it; null where the text has to be read. */
  #growCode(before, text) {
    const block = this.blocks.at(-1);
    if (!block?.open) return null;
    const from = text.lastIndexOf("\n", before - 1) + 1; // the line that was not complete
    if (from <= block.from) return null; // that of the fence itself
    const lines = text.slice(from).split("\n");
    if (closesFence(text.slice(from, before), block.open) || lines.some((line) => closesFence(line.trimEnd(), block.open))) return null;
    const shown = codeLine(text.slice(from, before), block.open);
    const now = lines.map((line) => codeLine(line, block.open)).join("\n");
    if (!now.startsWith(shown)) return null;
    const more = now.slice(shown.length);
    block.text += more;
    return more;
  }
}

/** What labels stand for, and the blocks that mention them. Of several definitions of a label the first counts. */
class References {
  #known = new Map(); // label -> {block, address}
  #last = new Set(); // labels of blocks that may still change
  #mentions = new Map(); // label -> numbers of the blocks that ask for it
  changed = new Set(); // labels that stand for something else since `touched` was asked

  replace(from, blocks) {
    if (from === 0) this.#last = new Set(this.#known.keys());
    const before = new Map([...this.#last].map((label) => [label, this.#known.get(label)?.address]));
    for (const [label] of before) if (this.#known.get(label)?.block >= from) this.#known.delete(label);
    this.#last.clear();
    blocks.forEach(({ type, label, href }, i) => {
      if (type === "definition") this.#define(label, href, from + i);
      else if (type === "footnote") this.#define(`^${label}`, `^${label}`, from + i);
    });
    for (const label of new Set([...before.keys(), ...this.#last])) {
      if (this.#known.get(label)?.address !== before.get(label)) this.changed.add(label);
    }
  }

  #define(label, address, block) {
    if (this.#known.has(label)) return;
    this.#known.set(label, { block, address });
    this.#last.add(label);
  }

  /** For the drawing of a block: what a label stands for. */
  lookup(label, block) {
    if (!this.#mentions.has(label)) this.#mentions.set(label, new Set());
    this.#mentions.get(label).add(block);
    return this.#known.get(label)?.address;
  }

  /** The blocks to draw again because of what their labels stand for now. */
  touched() {
    const blocks = new Set([...this.changed].flatMap((label) => [...(this.#mentions.get(label) ?? [])]));
    this.changed.clear();
    return blocks;
  }
}
