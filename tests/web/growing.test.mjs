// Markdown is parsed in linear time for any text, and a growing answer is not parsed again from its beginning.

import assert from "node:assert/strict";
import { test } from "node:test";
import "./document.mjs";
import { GrowingText } from "../../durable_chat/web/static/growing.js";
import { highlight } from "../../durable_chat/web/static/highlight.js";
import { inline } from "../../durable_chat/web/static/inline.js";
import { parseBlocks } from "../../durable_chat/web/static/markdown.js";
import { random } from "./arbitrary.mjs";
import { assertLinear } from "./growth.mjs";

/** Everything the page does to a text, except for creating elements of blocks. */
function drawAll(blocks) {
  for (const block of blocks) {
    if (block.type === "code") highlight(block.text, block.language);
    else if (block.text !== undefined) inline(block.text);
    for (const texts of [block.head ?? [], ...(block.rows ?? [])]) for (const text of texts) inline(text);
    for (const inner of [block.blocks ?? [], ...(block.items ?? [])]) drawAll(inner);
  }
}

const HOSTILE = [
  ...["*", "_", "**", "*a ", "a* ", "**a", "*a_b", "*a**b", "_a_ ", "~~", "~~a ", "***a ", "*a **b ", "a**b*c"],
  ...["`", "` a ``", "`a", "``a`", "[", "]", "[]", "![", "[a](", "](", "[a](b", "[a](<b", "[a](https://x.org ", "![a](", "[a][", "[[a]"],
  ...["[a](https://x.org)", "![a](https://x.org)", "[![a](https://x.org)](https://x.org)", "[^", "[^a]", "(", ")", "()"],
  ...["http://", "http://)", "http://%", "https://x.org) ", "https://x.org/....", "<http://", "<a@b.", "<a", "<b>", "<!--", "&", "&#", "&amp;", "&a"],
  ...["$", "$a ", "$$", "$$a", "\\(", "\\(a", "\\[", "\\", "\\*", "|", "a|", "\n", "\n\n", "- ", "- a\n", "- a\n\n", "1. a\n\n", " - a\n", "  - a\n    "],
  ...["> ", ">", "> a\n", ">>> a\n", "  ", "\t", "|a|\n|-|\n", "|a|b|\n", "a|b\n-|-\n", "```\n", "```", "``` \n`", "~~~ a\n", "#", "# #", "# a\n", "---\n", "- - ", "* * *\n"],
  ...["[a]: https://x.org\n", "[^a]: b\n", "[^a]: b\n\n    c\n", "$$\na\n", "\\[\n", "\\[\n\\] a\n", "- [ ] a\n", "a\n", "\r\n", " \r"],
];
const ENDS = ["", "x", "`", "$", ")", "]", "*", "\n- x", "\n\n  x"];
const CODE = ["/*", "'", '"', "`", "<!--", "--", "0", "a", "'''", "#", "$", "1.", "\\", '"\\'];
const again = (piece, n) => piece.repeat(n / piece.length);

const LONG = [
  ["http:// and parentheses", (n) => `http://${")".repeat(n)}`],
  ["an address and dots before its end", (n) => `https://x.org/${".".repeat(n)}x`],
  ["a fence, spaces and a mark", (n) => `\`\`\`${" ".repeat(n)}\``],
  ["a heading of marks", (n) => `# ${"#".repeat(n)}x`],
  ["an item and blank lines", (n) => `- a\n${"\n".repeat(n)}  b`],
  ["a wide head and many rows", (n) => `${again("|a", n / 3)}\n${again("|-", n / 3)}\n${again("|\n", n / 3)}`],
  ["a table's rule with spaces", (n) => `a|b\n-|-${" ".repeat(n)}x`],
  ["marks that open and marks that close", (n) => again("*a ", n / 2) + again("b* ", n / 2)],
  ["marks of both kinds, nested", (n) => again("*a _b ", n / 2) + again("c_ d* ", n / 2)],
  ["ticks of every length", (n) => Array.from({ length: Math.sqrt(n) }, (_, i) => "`".repeat(i + 1)).join(" ")],
  ["brackets in brackets", (n) => `${"[".repeat(n / 5)}a${"](b)".repeat(n / 5)}`],
  ["pictures in pictures", (n) => `${"![".repeat(n / 18)}a${"](https://x.org)".repeat(n / 18)}`],
  ["a label that is long", (n) => `${"[".repeat(n / 3)}${"a".repeat(n / 3)}${"]".repeat(n / 3)}`],
  ...["js", "python", "html", "sql", "sh", "rust"].flatMap((language) =>
    CODE.map((piece) => [`${JSON.stringify(piece)} in ${language}`, (n) => `\`\`\`${language}\n${again(piece, n)}\n\`\`\``]),
  ),
  ...HOSTILE.map((piece, i) => [`${JSON.stringify(piece)} again and again`, (n) => again(piece, n) + ENDS[i % ENDS.length]]),
];

for (const [name, make] of LONG) {
  test(`a text 32 times as long takes about 32 times as long: ${name}`, () => {
    assertLinear((n) => {
      const text = make(n);
      return () => drawAll(parseBlocks(text));
    }, 1_000);
  });
}

test("what takes long takes no time at all", () => {
  for (const [name, make] of LONG) {
    const from = process.cpuUsage();
    drawAll(parseBlocks(make(20_000)));
    const ms = process.cpuUsage(from).user / 1_000;
    assert.ok(ms < 1_000, `${name}: ${ms} ms`); // typically about 10 ms; the bug took 4 s
  }
});

for (const [name, begin, piece] of [
  ["paragraphs", "", "Some *words* of a paragraph, and [a link](https://x.org).\n\n"],
  ["code", "```js\n", "const x = 'a line of code';\n"],
  ["paragraphs and definitions", "", "See [one] and [two][one].\n\n[a]: https://x.org\n\n"],
]) {
  test(`what is read again while an answer grows is its end: ${name}`, () => {
    assertLinear((n) => {
      const whole = begin + again(piece, n);
      return () => {
        const growing = new GrowingText();
        for (let end = 20; end <= whole.length; end += 20) {
          const { from } = growing.update(whole.slice(0, end));
          drawAll(growing.blocks.slice(from).filter(({ open }) => !open));
        }
      };
    }, 2_000);
  });
}

test("a text that grows in any steps ends as it would have been read at once", () => {
  const next = random(7);
  const piece = () => HOSTILE[next(HOSTILE.length)] + ["word ", "\n", "\n\n", "\n  "][next(4)];
  for (let run = 0; run < 500; run++) {
    const text = Array.from({ length: next(30) }, piece).join("");
    const growing = new GrowingText();
    for (let end = 0; end < text.length; end += 1 + next(6)) growing.update(text.slice(0, end));
    growing.update(text);
    const plain = (blocks) => blocks.map(({ type, text, source }) => ({ type, text, source: type === "code" ? null : source }));
    assert.deepEqual(plain(growing.blocks), plain(parseBlocks(text)), JSON.stringify(text));
  }
});

test("a definition that comes later changes the blocks that mention it, and no others", () => {
  const growing = new GrowingText();
  const text = "[one] here\n\nnothing\n\n[one] again\n\n";
  growing.update(text);
  growing.references.lookup("one", 0);
  growing.references.lookup("one", 2);
  growing.references.touched();
  growing.update(`${text}[one]: https://x.org\n`);
  assert.deepEqual([...growing.references.touched()], [0, 2]);
  assert.equal(growing.references.lookup("one", 0), "https://x.org");
});
