// Markdown, as models write it: whole, half written, odd, hostile and huge.

import assert from "node:assert/strict";
import { test } from "node:test";

// As much of a document as the drawing of a line needs: elements as plain text that shows what they are.
class FakeNode {
  constructor(tag, text = "") {
    Object.assign(this, { tag, text, children: [], attributes: {} });
  }
  append(...children) {
    this.children.push(...children.map((child) => (typeof child === "string" ? new FakeNode(null, child) : child)));
  }
  setAttribute(name, value) {
    this.attributes[name] = value;
  }
  toString() {
    if (this.tag === null) return this.text;
    const href = this.attributes.href ? ` ${this.attributes.href}` : "";
    return `{${this.tag}${href}:${this.children.join("")}}`;
  }
}
globalThis.document = {
  createElement: (tag) => new FakeNode(tag),
  createTextNode: (text) => new FakeNode(null, text),
};

const { parseBlocks } = await import("../../durable_chat/web/static/markdown.js");
const { inline, safeAddress } = await import("../../durable_chat/web/static/inline.js");

const drawn = (text) => inline(text).join("");
const types = (text) => parseBlocks(text).map(({ type }) => type);

test("blocks", () => {
  const text = "# One\n\nTwo\nlines\n\n- a\n- b\n\n1. x\n\n> q\n\n---\n\n```js\ncode\n```\n\n|a|b|\n|-|-|\n|1|2|";
  assert.deepEqual(types(text), ["heading", "paragraph", "list", "list", "quote", "rule", "code", "table"]);
});

test("a fence without an end is code to the end, and markup in it is text", () => {
  const [block, ...rest] = parseBlocks("```python\nprint(1)\n\n# no heading\n- no list");
  assert.deepEqual([block.type, block.language, block.text], ["code", "python", "print(1)\n\n# no heading\n- no list"]);
  assert.deepEqual(rest, []);
});

test("a fence closes with as many marks as it opened, or more, of the same kind", () => {
  const [block, after] = parseBlocks("````\n```\n~~~~\n````\nafter");
  assert.deepEqual([block.text, after.text], ["```\n~~~~", "after"]);
});

test("a fence in a list belongs to its item", () => {
  const [list] = parseBlocks("- a\n  ```\n  x\n    y\n  ```\n- b");
  assert.deepEqual(list.items.map((blocks) => blocks.map(({ type }) => type)), [["paragraph", "code"], ["paragraph"]]);
  assert.equal(list.items[0][1].text, "x\n  y");
});

test("lists in lists, and numbers that do not begin at one", () => {
  const [list] = parseBlocks("3. a\n   - b\n     - c\n4. d");
  assert.deepEqual([list.ordered, list.start, list.items.length], [true, 3, 2]);
  assert.equal(list.items[0][1].items[0][1].items[0][0].text, "c");
});

test("every beginning of a text can be drawn: an answer grows letter by letter", () => {
  const text = "# T\n\n**b *i* b** `c` [l](https://x.org)\n\n- a\n  1. b\n\n> q\n\n```js\nx\n```\n\n|a|b|\n|:-:|-|\n|1|2|\n\n***\n~~d~~ \\* <b>";
  for (let end = 0; end <= text.length; end++) {
    for (const block of parseBlocks(text.slice(0, end))) if (block.text !== undefined) drawn(block.text);
  }
});

test("blocks that are complete do not change while the text grows", () => {
  const text = "# T\n\nfirst paragraph\n\n- a\n- b\n\nlast";
  const whole = parseBlocks(text).map(({ source }) => source);
  for (let end = text.indexOf("last"); end <= text.length; end++) {
    assert.deepEqual(parseBlocks(text.slice(0, end)).map(({ source }) => source).slice(0, 3), whole.slice(0, 3));
  }
});

for (const [text, expected] of [
  ["plain", "plain"],
  ["*a* **b** ***c*** ~~d~~ _e_ __f__", "{em:a} {strong:b} {em:{strong:c}} {del:d} {em:e} {strong:f}"],
  ["**a *b* c**", "{strong:a {em:b} c}"],
  ["*a **b** c*", "{em:a {strong:b} c}"],
  ["snake_case_name and 2 * 3 * 4", "snake_case_name and 2 * 3 * 4"],
  ["**not closed", "**not closed"],
  ["`a * b` ``c ` d``", "{code:a * b} {code:c ` d}"],
  ["`not closed *em*", "`not closed {em:em}"],
  ["\\*no\\* \\`no\\`", "*no* `no`"],
  ["a\nb", "a{br:}b"],
  ["[l](https://x.org/a_b_c \"title\")", "{a https://x.org/a_b_c:l}"],
  ["[**b** _i_](https://x.org)", "{a https://x.org/:**b** _i_}"],
  ["see https://x.org/a(b), or (https://y.org).", "see {a https://x.org/a(b):https://x.org/a(b)}, or ({a https://y.org/:https://y.org})."],
  ["<b>bold</b> &amp;", "<b>bold</b> &amp;"],
]) {
  test(`drawn: ${text}`, () => assert.equal(drawn(text), expected));
}

for (const address of [
  "javascript:alert(1)",
  "JaVaScRiPt:alert(1)",
  "java\tscript:alert(1)",
  " javascript:alert(1)",
  "\u0001javascript:alert(1)",
  "data:text/html,<script>alert(1)</script>",
  "vbscript:x",
  "file:///etc/passwd",
  "//x.org",
  "/local",
  "x",
  "",
]) {
  test(`no link: ${JSON.stringify(address)}`, () => {
    assert.equal(safeAddress(address), null);
    const nodes = inline(`[a](${address}) [b](<${address}>)`);
    assert.ok(nodes.every((node) => node.tag !== "a"));
  });
}

const MANY = 40_000;
for (const piece of ["*", "_", "*a ", "**a", "_a_ ", "`", "` a ``", "[", "[a](", "](", "http://", "https://x.org) ", "~~", "\\", "<b>", "|", "\n", "- ", "- a\n", "> ", ">", "  ", "|a|\n|-|\n", "```\n", "1. a\n\n", "#", "a|"]) {
  test(`${MANY} times ${JSON.stringify(piece)} takes no more than its length`, { timeout: 20_000 }, () => {
    const text = piece.repeat(MANY);
    for (const block of parseBlocks(text)) if (block.text !== undefined && block.type !== "code") drawn(block.text);
  });
}

test("quotes and lists nested without end are read to some depth", () => {
  for (const piece of ["> ", "- ", "> - "]) assert.ok(parseBlocks(piece.repeat(5_000) + "x").length > 0);
});
