// The nodes of a text during parsing, and the marks that may become emphasis: CommonMark's delimiter stack.

const DEPTH_MAX = 8; // nesting of emphasis; deeper marks are shown as text
const TYPES = new Map([
  ["~2", "del"],
  ["*1", "em"],
  ["_1", "em"],
  ["*2", "strong"],
  ["_2", "strong"],
]);

/**
 * Mutable: two linked lists, `cells` of nodes and the stack of marks. A mark's `inner` is how deep the nodes nest between it
 * and the next mark, so that no pair of marks has to look at what is between them twice.
 */
export class Emphasis {
  #head = { prev: null, next: null, depth: 0 };
  #tail = this.#head;
  #base = { at: 0, prev: null, next: null, inner: 0 };
  #top = this.#base;
  #marks = 0;

  text(text) {
    this.add({ type: "text", text });
  }

  add(node, depth = 0) {
    this.#tail = put(this.#tail, { node, depth });
    this.#top.inner = Math.max(this.#top.inner, depth);
  }

  /** Adds a run of the same character. */
  mark({ char, length, canOpen, canClose }) {
    const mark = { char, length, run: length, canOpen, canClose, at: ++this.#marks, prev: this.#top, next: null, inner: 0 };
    this.#tail = put(this.#tail, { mark, depth: 0 });
    mark.cell = this.#tail;
    this.#top.next = mark;
    this.#top = mark;
    return mark;
  }

  /** Moves the nodes after a mark into `node`, which replaces the mark. */
  wrap(mark, node) {
    this.#pairAll(mark);
    const before = mark.cell.prev;
    const { nodes, depth } = take(mark.cell, null);
    this.#tail = mark.cell;
    this.#drop(mark);
    this.#tail = before;
    before.next = null;
    this.add({ ...node, nodes: unlinked(nodes) }, depth + 1);
  }

  /** Returns all nodes in order. */
  end() {
    this.#pairAll(this.#base);
    return take(this.#head, null).nodes;
  }

  /** Turns the marks after `bottom` into emphasis. Unmatched marks become text. */
  #pairAll(bottom) {
    const floors = new Map(); // kind of closing mark -> the mark up to which nothing can open it
    for (let closer = bottom.next; closer; ) {
      const key = `${closer.char}${closer.canOpen}${closer.run % 3}`;
      const floor = floors.get(key) ?? bottom.at;
      let opener = closer.prev;
      while (closer.canClose && opener.at > floor && !fits(opener, closer)) opener = opener.prev;
      if (closer.canClose && opener.at > floor) {
        closer = this.#pair(opener, closer);
        continue;
      }
      const { next, prev } = closer;
      if (closer.canClose) {
        floors.set(key, prev.at);
        if (!closer.canOpen) this.#drop(closer);
      }
      closer = next;
    }
    while (this.#top !== bottom) this.#drop(this.#top);
  }

  /** Creates one emphasis, and returns the mark to look at next. */
  #pair(opener, closer) {
    while (closer.prev !== opener) this.#drop(closer.prev);
    const { next } = closer;
    const depth = opener.inner + 1;
    if (depth > DEPTH_MAX) {
      this.#drop(closer);
      this.#drop(opener);
      return next;
    }
    const length = Math.min(2, opener.length, closer.length);
    const { nodes } = take(opener.cell, closer.cell);
    const cell = put(opener.cell, { node: { type: TYPES.get(`${opener.char}${length}`), nodes }, depth });
    cell.next = closer.cell;
    closer.cell.prev = cell;
    opener.inner = depth;
    for (const mark of [opener, closer]) {
      mark.length -= length;
      if (mark.length === 0) this.#drop(mark);
    }
    return closer.length ? closer : next;
  }

  /** Removes a mark from the stack. Its cell stays as text. */
  #drop(mark) {
    mark.prev.inner = Math.max(mark.prev.inner, mark.inner);
    mark.prev.next = mark.next;
    if (mark.next) mark.next.prev = mark.prev;
    else this.#top = mark.prev;
  }
}

function fits(opener, closer) {
  if (!opener.canOpen || opener.char !== closer.char) return false;
  const both = closer.canOpen || opener.canClose; // CommonMark's rule of three: `*a**b*` is one emphasis
  return !both || closer.run % 3 === 0 || (opener.run + closer.run) % 3 !== 0;
}

function put(before, cell) {
  cell.prev = before;
  cell.next = null;
  before.next = cell;
  return cell;
}

/** Removes and returns the nodes between two cells, with texts joined, and their nesting depth. */
function take(from, until) {
  const nodes = [];
  let depth = 0;
  for (let cell = from.next; cell !== until && cell; cell = cell.next) {
    depth = Math.max(depth, cell.depth);
    const node = cell.mark ? { type: "text", text: cell.mark.char.repeat(cell.mark.length) } : cell.node;
    const last = nodes.at(-1);
    if (node.type !== "text") nodes.push(node);
    else if (last?.type === "text") last.text += node.text;
    else if (node.text) nodes.push({ ...node });
  }
  from.next = null;
  return { nodes, depth };
}

/** Returns nodes for the label of a link, which may contain no links: addresses in it become text. */
function unlinked(nodes) {
  return nodes.flatMap((node) => {
    if (node.type === "link") return node.nodes;
    if (node.type === "note") return [{ type: "text", text: `[^${node.label}]` }];
    return node.nodes ? [{ ...node, nodes: unlinked(node.nodes) }] : [node];
  });
}
