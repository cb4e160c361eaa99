// Emphasis, code and links inside a line, to nodes.

import { element } from "./dom.js";

const DEPTH_MAX = 6; // emphasis in emphasis; deeper is shown as text
const SPAN_MAX_CHARS = 2_000; // how far the end of an emphasis is looked for, so that stray stars cost little

const MARK = /[\\`[*_~\n]|https?:\/\//g;
const LINK = /\[((?:[^[\]\\\n]|\\.)*)\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+"[^"\n]*")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`|]+/y;
const DELIMITER = /\*{1,3}|_{1,3}|~~/y;
const TAGS = { "*": ["em"], "**": ["strong"], "***": ["em", "strong"], "~~": ["del"] };

/** The nodes of a text. */
export function inline(text, depth = 0) {
  const nodes = [];
  let from = 0;
  MARK.lastIndex = 0;
  for (let mark = next(0); mark; ) {
    const found = read(text, mark.index, depth);
    if (found) {
      if (mark.index > from) nodes.push(document.createTextNode(text.slice(from, mark.index)));
      nodes.push(found.node);
      from = found.end;
    }
    mark = next(found ? found.end : mark.index + runLength(text, mark.index));
  }
  if (from < text.length) nodes.push(document.createTextNode(text.slice(from)));
  return nodes;

  function next(at) {
    MARK.lastIndex = at;
    return MARK.exec(text);
  }
}

/** How many of the same character stand here: a run that opens nothing is passed over whole. */
function runLength(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end++;
  return end - at;
}

function read(text, at, depth) {
  switch (text[at]) {
    case "\n":
      return { node: element("br"), end: at + 1 };
    case "\\":
      return /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "") ? { node: document.createTextNode(text[at + 1]), end: at + 2 } : null;
    case "`":
      return readCode(text, at);
    case "[":
      return readLink(text, at, depth);
    case "h":
      return depth < DEPTH_MAX ? readAddress(text, at) : null;
    default:
      return depth < DEPTH_MAX ? readEmphasis(text, at, depth) : null;
  }
}

function readCode(text, at) {
  const ticks = "`".repeat(runLength(text, at));
  let close = text.indexOf(ticks, at + ticks.length);
  while (close >= 0 && runLength(text, close) !== ticks.length) close = text.indexOf(ticks, close + runLength(text, close));
  if (close < 0) return null;
  const code = text.slice(at + ticks.length, close).replaceAll("\n", " ");
  return { node: element("code", {}, /^ .*\S.* $/.test(code) ? code.slice(1, -1) : code), end: close + ticks.length };
}

function readLink(text, at, depth) {
  LINK.lastIndex = at;
  const match = LINK.exec(text);
  const href = match && safeAddress(match[2]);
  if (!href || depth >= DEPTH_MAX) return null; // what is no safe link stays as it was written
  const label = inline(match[1], DEPTH_MAX); // no link, and no emphasis, inside a link
  return { node: link(href, label.length ? label : [href]), end: at + match[0].length };
}

function readAddress(text, at) {
  if (/\w/.test(text[at - 1] ?? "")) return null;
  ADDRESS.lastIndex = at;
  let address = ADDRESS.exec(text)?.[0].replace(/[.,:;!?*_~\]]+$/, "") ?? "";
  while (address.endsWith(")") && address.split(")").length > address.split("(").length) address = address.slice(0, -1);
  const href = safeAddress(address);
  return href ? { node: link(href, [address]), end: at + address.length } : null;
}

const link = (href, label) => element("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...label);

/** The address when it is http or https, else null: nothing a message holds may run. */
export function safeAddress(address) {
  const url = URL.canParse(address) ? new URL(address) : null;
  return url && (url.protocol === "https:" || url.protocol === "http:") ? url.href : null;
}

function readEmphasis(text, at, depth) {
  DELIMITER.lastIndex = at;
  const mark = DELIMITER.exec(text)?.[0];
  if (!mark) return null;
  const start = at + mark.length;
  const inWord = mark[0] === "_" && /\w/.test(text[at - 1] ?? "");
  if (inWord || /\s/.test(text[start] ?? " ")) return null;
  const close = closing(text, start, mark);
  if (close < 0) return null;
  let nodes = inline(text.slice(start, close), depth + 1);
  for (const tag of [...TAGS[mark.replaceAll("_", "*")]].reverse()) nodes = [element(tag, {}, ...nodes)];
  return { node: nodes[0], end: close + mark.length };
}

/** Where the mark that opened before `start` closes: a run of the same length, after a character that is no space. */
function closing(text, start, mark) {
  const end = Math.min(text.length, start + SPAN_MAX_CHARS);
  for (let at = text.indexOf(mark[0], start); at >= 0 && at < end; ) {
    const run = runLength(text, at);
    const wordGoesOn = mark[0] === "_" && /\w/.test(text[at + run] ?? "");
    const fits = mark.length === 1 ? run === 1 || run === 3 : run >= mark.length;
    if (fits && at > start && !/\s/.test(text[at - 1]) && !wordGoesOn) return at + (mark.length === 1 ? run - 1 : 0);
    at = text.indexOf(mark[0], at + run);
  }
  return -1;
}
