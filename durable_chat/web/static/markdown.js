// Markdown, as models write it, to plain data: blocks of text. `inline.js` and `blocks.js` draw it.

const DEPTH_MAX = 8; // lists and quotes nested deeper than a person reads are shown as text

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const TABLE_RULE = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/**
 * The blocks of a text, each with `source`, the text it came from: a block whose source is the same looks the same.
 * Types: code {language, text}, heading {level, text}, rule, quote {blocks}, list {ordered, start, items: blocks[]},
 * table {align, head, rows}, paragraph {text}.
 */
export function parseBlocks(text) {
  return readBlocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0);
}

function readBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at++;
      continue;
    }
    const [block, end] = readBlock(lines, at, depth);
    block.source = lines.slice(at, end).join("\n");
    blocks.push(block);
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return readCode(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, text: heading[2] }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < DEPTH_MAX && QUOTE.test(line)) return readQuote(lines, at, depth);
  if (depth < DEPTH_MAX && ITEM.test(line)) return readList(lines, at, depth);
  if (startsTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at, depth);
}

function readCode(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  const indent = lines[at].length - lines[at].trimStart().length;
  const closing = new RegExp(`^ {0,3}\\${fence[0]}{${fence.length},}\\s*$`);
  const text = [];
  let end = at + 1;
  for (; end < lines.length && !closing.test(lines[end]); end++) {
    text.push(indent ? lines[end].replace(new RegExp(`^ {0,${indent}}`), "") : lines[end]);
  }
  return [{ type: "code", language: language.trim().split(/\s/)[0], text: text.join("\n") }, Math.min(end + 1, lines.length)];
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", blocks: readBlocks(inner, depth + 1) }, end];
}

function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    const belongs = item && /\d/.test(item[2]) === ordered && item[1].length <= first[1].length + 1 && !RULE.test(lines[end]);
    if (!belongs) break;
    const [inner, next] = readItem(lines, end, item);
    items.push(readBlocks(inner, depth + 1));
    end = next;
  }
  if (!items.length) return readParagraph(lines, at, DEPTH_MAX);
  return [{ type: "list", ordered, start: ordered ? Number.parseInt(first[2], 10) : 1, items }, end];
}

/** The lines of an item without its indent, and where the next one begins. */
function readItem(lines, at, [, indent, marker, , rest]) {
  const margin = indent.length + 2; // models indent by two or more, whatever the width of the marker
  const width = indent.length + marker.length + 1;
  const inner = [rest];
  let end = at + 1;
  for (; end < lines.length; end++) {
    const line = lines[end];
    const blank = line.trim() === "";
    const deeper = line.length - line.trimStart().length >= margin;
    if (blank ? !continues(lines, end, margin) : !deeper && (inner.at(-1).trim() === "" || startsBlock(lines, end))) break;
    inner.push(line.slice(Math.min(width, line.length - line.trimStart().length)));
  }
  while (end < lines.length && lines[end].trim() === "" && ITEM.test(lines[end + 1] ?? "")) end++;
  return [inner, end];
}

/** Whether what follows a blank line is still inside the item. */
function continues(lines, at, margin) {
  let next = at;
  while (next < lines.length && lines[next].trim() === "") next++;
  return next < lines.length && lines[next].length - lines[next].trimStart().length >= margin;
}

const cells = (line) =>
  line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));

function startsTable(lines, at) {
  const rule = lines[at + 1];
  return lines[at].includes("|") && rule?.includes("-") && TABLE_RULE.test(rule) && cells(lines[at]).length === cells(rule).length;
}

function readTable(lines, at) {
  const align = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "end") : "start"));
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|"); end++) rows.push(cells(lines[end]));
  return [{ type: "table", align, head: cells(lines[at]), rows }, end];
}

function startsBlock(lines, at) {
  const line = lines[at];
  return [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line)) || startsTable(lines, at);
}

function readParagraph(lines, at, depth) {
  let end = at + 1;
  // At the greatest depth markers are text, or they would never be read.
  const ends = (index) => lines[index].trim() === "" || (depth < DEPTH_MAX && startsBlock(lines, index));
  while (end < lines.length && !ends(end)) end++;
  return [{ type: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n") }, end];
}
