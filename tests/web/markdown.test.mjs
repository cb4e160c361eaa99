// Markdown as models write it: complete, incomplete, unusual, hostile and huge.

import assert from "node:assert/strict";
import { test } from "node:test";
import "./document.mjs";
import { safeAddress } from "../../durable_chat/web/static/addresses.js";
import { highlight } from "../../durable_chat/web/static/highlight.js";
import { inline } from "../../durable_chat/web/static/inline.js";
import { parseBlocks } from "../../durable_chat/web/static/markdown.js";

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
  ["[**b** _i_](https://x.org)", "{a https://x.org/:{strong:b} {em:i}}"],
  ["[https://x.org](https://x.org) **https://y.org**", "{a https://x.org/:https://x.org} {strong:{a https://y.org/:https://y.org}}"],
  ["<https://x.org/a_b_> <me@x.org> <mailto:me@x.org>", "{a https://x.org/a_b_:https://x.org/a_b_} {a mailto:me@x.org:me@x.org} {a mailto:me@x.org:me@x.org}"],
  ["[write](mailto:me@x.org)", "{a mailto:me@x.org:write}"],
  ["![a *cat*](https://x.org/c.png) ![](https://x.org)", "{a https://x.org/c.png:a {em:cat}} {a https://x.org/:picture}"],
  ["[![badge](https://x.org/b.svg)](https://x.org)", "{a https://x.org/:badge}"],
  ["[a [b](https://x.org) c](https://y.org)", "[a {a https://x.org/:b} c]({a https://y.org/:https://y.org})"],
  ["[a](https://x.org/b(c)d) [e](<https://x.org/f g>)", "{a https://x.org/b(c)d:a} {a https://x.org/f%20g:e}"],
  ["*a **b* c**", "{em:a {em:{em:b} c}}"],
  ["**中文。**后面 **Note:**text", "{strong:中文。}后面 {strong:Note:}text"],
  ["a~b~ ~~~c~~~", "a~b~ ~~~c~~~"],
  ["&copy; &#169; &#xA9; &nosuch; &#0; AT&T", "© © © &nosuch; \ufffd AT&T"],
  ["$a_1 * b_2$ and \\(x_1*y_2*z\\) and $$c*d*e$$", "{span:$a_1 * b_2$} and {span:\\(x_1*y_2*z\\)} and {span:$$c*d*e$$}"],
  ["it costs $5 and *that* is $10 or \\$3", "it costs $5 and {em:that} is $10 or $3"],
  ["see https://x.org/a(b), or (https://y.org).", "see {a https://x.org/a(b):https://x.org/a(b)}, or ({a https://y.org/:https://y.org})."],
  ["<b>bold</b> &amp;", "<b>bold</b> &"],
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

test("tasks", () => {
  const [list] = parseBlocks("- [ ] a\n- [x] b\n- c\n- [y] d");
  assert.deepEqual(list.checked, [false, true, null, null]);
  assert.deepEqual(list.items.map(([block]) => block.text), ["a", "b", "c", "[y] d"]);
});

test("references and footnotes, wherever they are defined", () => {
  const text = '[one] [two][one] [three][]\n\n[one]: https://x.org "title"\n[^n]: the *note*\n  goes on\n[Three]: <https://y.org>\n';
  assert.deepEqual(types(text), ["paragraph", "definition", "footnote", "definition"]);
  const known = new Map([["one", "https://x.org"], ["three", "https://y.org"], ["^n", "^n"]]);
  const withKnown = (text) => inline(text, (label) => known.get(label)).join("");
  assert.equal(withKnown("[one] [two][one] [Three][]"), "{a https://x.org/:one} {a https://x.org/:two} {a https://y.org/:Three}");
  assert.equal(withKnown("so[^n] and [^m], [four]"), "so{sup:{button:n}} and [^m], [four]");
});

test("math that stands by itself is one block, whatever is in it", () => {
  const text = "so:\n$$\n- a_1\n* b\n$$\nand\n\\[ x = 1 \\]\n\n\\[ no end\n\n- item";
  assert.deepEqual(types(text), ["paragraph", "math", "paragraph", "math", "paragraph", "list"]);
});

test("headings keep what is theirs", () => {
  assert.deepEqual(parseBlocks("# C#\n## a ##\n####### no\n#no").map(({ type, text }) => [type, text]), [
    ["heading", "C#"],
    ["heading", "a"],
    ["paragraph", "####### no\n#no"],
  ]);
});

test("code is told apart, and nothing of it is lost", () => {
  const code = 'def f(x): # why\n  return "a\\"b" + 12 if x else None';
  const pieces = highlight(code, "python");
  assert.equal(pieces.map(({ text }) => text).join(""), code);
  assert.deepEqual(
    pieces.filter(({ kind }) => kind).map(({ kind, text }) => `${kind} ${text}`),
    ["keyword def", "comment # why", "keyword return", 'string "a\\"b"', "number 12", "keyword if", "keyword else", "keyword None"],
  );
  assert.deepEqual(highlight("if x", "no such language"), [{ kind: null, text: "if x" }]);
  assert.deepEqual(highlight("if x", "constructor"), [{ kind: null, text: "if x" }]);
});

test("quotes and lists nested without end are read to some depth", () => {
  for (const piece of ["> ", "- ", "> - "]) assert.ok(parseBlocks(piece.repeat(5_000) + "x").length > 0);
});
