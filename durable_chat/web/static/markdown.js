// Parses Markdown as models write it into blocks, as plain data. `inline.js` and `blocks.js` draw them.
//
// This is our own parser because the page has no build step and no third-party code. It supports the parts of CommonMark
// and GitHub's extensions that models use, but no raw HTML. It looks at each line a fixed number of times.

const DEPTH_MAX = 8; // lists and quotes that are nested deeper are shown as text
const COLUMNS_MAX = 100; // every row is padded to the width of the head, so a wide head would make many short rows large
const MARGIN = 2; // models indent the content of an item by at least two, whatever the width of the marker

const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const TASK = /^\[([ xX])\](?: |$)/;
const RULE = /^(?:\*{3,}|-{3,}|_{3,})$/;
const COLUMN = /^:?-+:?$/;
const DEFINITION = /^ {0,3}\[((?:[^[\]\\]|\\.){1,200})\]: *(\S+)(?: +["'(].*)?$/;
const FOOTNOTE = /^ {0,3}\[\^([^\]\s[]{1,100})\]: ?(.*)$/;
const MATH_ENDS = new Map([
  ["$$", "$$"],
  ["\\[", "\\]"],
]);

/**
 * Returns the blocks of a text, each with its `source` text and its position `from`. Types: code {language,
 * text, open}, heading {level, text}, rule, quote {blocks}, list {ordered, start, items: blocks[], checked}, table
 * {align, head, rows}, math {text}, footnote {label, blocks}, definition {label, href}, paragraph {text}. `open` is the
 * fence of code without an end. `checked` says for each item whether it is done, or null if it is not a task.
 */
export function parseBlocks(text) {
  const raw = text.split("\n");
  const blocks = readBlocks(raw.map(cleaned), 0);
  let [line, offset] = [0, 0];
  for (const block of blocks) {
    for (; line < block.at; line++) offset += raw[line].length + 1;
    block.from = offset;
    block.source = raw.slice(block.at, block.end).join("\n");
  }
  return blocks;
}

const cleaned = (line) => (line.endsWith("\r") ? line.slice(0, -1) : line).replaceAll("\t", "    ");
const isBlank = (line) => line.trim() === "";

function indentOf(line) {
  let at = 0;
  while (line[at] === " ") at++;
  return at;
}

/** Returns the length of a run of the same character. */
export function runLength(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end++;
  return end - at;
}

function readBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    const [block, end] = readBlock(lines, at, depth);
    blocks.push(Object.assign(block, { at, end }));
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  const fence = openFence(line);
  if (fence) return readCode(lines, at, fence);
  const heading = readHeading(line);
  if (heading) return [heading, at + 1];
  if (isRule(line)) return [{ type: "rule" }, at + 1];
  if (MATH_ENDS.has(line.trim().slice(0, 2))) return readMath(lines, at);
  const [footnote, definition] = [FOOTNOTE.exec(line), DEFINITION.exec(line)];
  if (footnote && depth < DEPTH_MAX) return readFootnote(lines, at, footnote, depth);
  if (definition && !footnote) return [{ type: "definition", label: labelOf(definition[1]), href: definition[2].replace(/^<|>$/g, "") }, at + 1];
  if (depth < DEPTH_MAX && isQuote(line)) return readQuote(lines, at, depth);
  if (depth < DEPTH_MAX && ITEM.test(line)) return readList(lines, at, depth);
  if (startsTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at, depth);
}

/** Returns the normalized form of a label in square brackets. */
export const labelOf = (text) => text.trim().toLowerCase().replace(/\s+/g, " ");

// Code

function openFence(line) {
  const indent = indentOf(line);
  const mark = line[indent];
  if (indent > 3 || (mark !== "`" && mark !== "~")) return null;
  const length = runLength(line, indent);
  const info = line.slice(indent + length).trim();
  return length < 3 || info.includes("`") ? null : { indent, mark, length, language: info.split(/\s/, 1)[0] };
}

/** Returns whether the line ends the code that the fence began. */
export function closesFence(line, { mark, length }) {
  const indent = indentOf(line);
  if (indent > 3 || line[indent] !== mark) return false;
  const run = runLength(line, indent);
  return run >= length && isBlank(line.slice(indent + run));
}

/** Returns a line of code without the indentation of its fence. */
export function codeLine(line, { indent }) {
  const text = cleaned(line);
  return text.slice(Math.min(indent, indentOf(text)));
}

function readCode(lines, at, fence) {
  const text = [];
  let end = at + 1;
  for (; end < lines.length && !closesFence(lines[end], fence); end++) text.push(codeLine(lines[end], fence));
  const open = end === lines.length ? fence : null;
  return [{ type: "code", language: fence.language, text: text.join("\n"), open }, Math.min(end + 1, lines.length)];
}

// Blocks of one line

function readHeading(line) {
  const indent = indentOf(line);
  if (indent > 3 || line[indent] !== "#") return null;
  const level = runLength(line, indent);
  const text = line.slice(indent + level);
  if (level > 6 || (text && text[0] !== " ")) return null;
  return { type: "heading", level, text: withoutMarks(text.trim()) };
}

/** A heading may end with marks after a space. `# C#` keeps its last character. */
function withoutMarks(text) {
  let end = text.length;
  while (text[end - 1] === "#") end--;
  return end === 0 || text[end - 1] === " " ? text.slice(0, end).trim() : text;
}

const isRule = (line) => indentOf(line) <= 3 && "*-_".includes(line.trim()[0] ?? " ") && RULE.test(line.replaceAll(" ", ""));

/** Math from `$$` or `\[` to its end. Without an end before a blank line it is a paragraph. */
function readMath(lines, at) {
  const close = MATH_ENDS.get(lines[at].trim().slice(0, 2));
  const shown = [];
  for (let end = at; end < lines.length && !isBlank(lines[end]); end++) {
    const line = lines[end].trim();
    shown.push(line);
    const closes = line.indexOf(close, end === at ? 2 : 0) >= 0;
    if (!closes && end < lines.length - 1) continue;
    const type = line.endsWith(close) || !closes ? "math" : "paragraph"; // at the end of the text it is still being written
    return [{ type, text: shown.join("\n") }, end + 1];
  }
  return [{ type: "paragraph", text: shown.join("\n") }, at + shown.length];
}

// Blocks that contain blocks

const isQuote = (line) => line[indentOf(line)] === ">" && indentOf(line) <= 3;

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && isQuote(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.slice(line.indexOf(">") + 1).replace(/^ /, ""));
  return [{ type: "quote", blocks: readBlocks(inner, depth + 1) }, end];
}

function readFootnote(lines, at, [, label, rest], depth) {
  const [inner, end] = readInside(lines, at, rest, MARGIN, 4);
  return [{ type: "footnote", label, blocks: readBlocks(inner, depth + 1) }, end];
}

function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const list = { type: "list", ordered, start: ordered ? Number.parseInt(first[2], 10) : 1, items: [], checked: [] };
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || /\d/.test(item[2]) !== ordered || item[1].length > first[1].length + 1 || isRule(lines[end])) break;
    const [, indent, marker, , rest] = item;
    const task = TASK.exec(rest);
    const text = task ? rest.slice(task[0].length) : rest;
    const [inner, next] = readInside(lines, end, text, indent.length + MARGIN, indent.length + marker.length + 1);
    list.items.push(readBlocks(inner, depth + 1));
    list.checked.push(task ? task[1] !== " " : null);
    const following = skipBlanks(lines, next);
    end = following < lines.length && ITEM.test(lines[following]) ? following : next;
  }
  return list.items.length ? [list, end] : readParagraph(lines, at, DEPTH_MAX);
}

/** Returns the lines of the container at `at`, without up to `width` of indentation, and where they end. */
function readInside(lines, at, rest, margin, width) {
  const inner = [rest];
  let end = at + 1;
  while (end < lines.length) {
    const following = skipBlanks(lines, end);
    if (following === lines.length) break;
    const deeper = indentOf(lines[following]) >= margin;
    const belongs = deeper || (following === end && !isBlank(inner.at(-1)) && !startsBlock(lines, end) && !DEFINITION.test(lines[end]));
    if (!belongs) break;
    for (; end < following; end++) inner.push("");
    inner.push(lines[end].slice(Math.min(width, indentOf(lines[end]))));
    end++;
  }
  return [inner, end];
}

function skipBlanks(lines, at) {
  let next = at;
  while (next < lines.length && isBlank(lines[next])) next++;
  return next;
}

// Tables

const cells = (line) =>
  line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));

function startsTable(lines, at) {
  const rule = lines[at + 1];
  if (!lines[at].includes("|") || !rule?.includes("-") || indentOf(rule) > 3) return false;
  const columns = cells(rule);
  return columns.length <= COLUMNS_MAX && columns.every((cell) => COLUMN.test(cell)) && cells(lines[at]).length === columns.length;
}

function readTable(lines, at) {
  const align = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "end") : "start"));
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|"); end++) rows.push(cells(lines[end]).slice(0, align.length));
  return [{ type: "table", align, head: cells(lines[at]), rows }, end];
}

// Paragraphs: everything else

function startsBlock(lines, at) {
  const line = lines[at];
  return startsLine(line) || ITEM.test(line) || FOOTNOTE.test(line) || startsTable(lines, at);
}

function startsLine(line) {
  const text = line.trim();
  return text === "$$" || text.startsWith("\\[") || isQuote(line) || openFence(line) !== null || readHeading(line) !== null || isRule(line);
}

function readParagraph(lines, at, depth) {
  let end = at + 1;
  // At the maximum depth, markers are text. Otherwise the parser would not advance.
  const ends = (index) => isBlank(lines[index]) || (depth < DEPTH_MAX && startsBlock(lines, index));
  while (end < lines.length && !ends(end)) end++;
  return [{ type: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n") }, end];
}
