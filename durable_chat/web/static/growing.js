// The blocks of a growing text. When it grows, only its end is parsed again.

import { closesFence, codeLine, parseBlocks } from "./markdown.js";

// The first line after a block decides where the block ends. With two more blocks after it, that line is complete.
const UNSETTLED_BLOCKS = 2;

/** Mutable: everything. `blocks` are the blocks of the text so far; `references` resolves their labels. */
export class GrowingText {
  blocks = [];
  references = new References();
  #text = "";
  #settled = { blocks: 0, chars: 0 };

  /** Sets the current text. Returns the index of the first block that may have changed, `{from}`, or the added code, `{more}`. */
  update(text) {
    const before = this.#text;
    this.#text = text;
    if (text === before) return { from: this.blocks.length };
    const grown = text.slice(0, before.length) === before; // many times faster than startsWith
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

  /** Appends to unfinished code until a line ends it. Returns null if the text must be parsed. */
  #growCode(before, text) {
    const block = this.blocks.at(-1);
    if (!block?.open) return null;
    const from = text.lastIndexOf("\n", before - 1) + 1; // the incomplete line
    if (from <= block.from) return null; // the line of the fence itself
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

/** The targets of labels, and the blocks that mention them. The first definition of a label counts. */
class References {
  #known = new Map(); // label -> {block, address}
  #last = new Set(); // labels of blocks that may still change
  #mentions = new Map(); // label -> indexes of the blocks that use it
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

  /** Returns a function that looks up labels while a block is drawn. */
  lookup(label, block) {
    if (!this.#mentions.has(label)) this.#mentions.set(label, new Set());
    this.#mentions.get(label).add(block);
    return this.#known.get(label)?.address;
  }

  /** Returns the blocks to draw again because the targets of their labels changed. */
  touched() {
    const blocks = new Set([...this.changed].flatMap((label) => [...(this.#mentions.get(label) ?? [])]));
    this.changed.clear();
    return blocks;
  }
}
