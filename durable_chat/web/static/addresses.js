// The addresses that a text may link to.

import { decoded } from "./entities.js";

export const ADDRESS_CHARS_MAX = 2_000; // the limit of browsers and servers; also limits the search after a stray mark

const TITLE_ENDS = new Map([
  ['"', '"'],
  ["'", "'"],
  ["(", ")"],
]);
const BARE = new RegExp(`https?://[^\\s<>"'\`|\\[\\]，。、；：！？）】」』》]{1,${ADDRESS_CHARS_MAX}}`, "y");
const IN_ANGLES = new RegExp(`<((?:https?://|mailto:)[^\\s<>]{1,${ADDRESS_CHARS_MAX}}|[\\w.+-]{1,64}@[\\w-]{1,63}(?:\\.[\\w-]{1,63}){1,8})>`, "y");
const TRAILING = new Set(".,:;!?*_~");

/** Returns the address if it is http or https, else null, so that no link in a message can run code. */
export function safeAddress(address) {
  const url = URL.canParse(address) ? new URL(address) : null;
  return url && (url.protocol === "https:" || url.protocol === "http:") ? url.href : null;
}

/** Does the same, and also allows mail addresses. */
export function safeLink(address) {
  return safeAddress(address) ?? (/^mailto:[^\s<>]+$/i.test(address) ? address : null);
}

/** Returns an address that stands alone in the text, `{text, href, end}`, or null. Punctuation at its end is not part of it. */
export function readBare(text, at) {
  BARE.lastIndex = at;
  const found = BARE.exec(text)?.[0] ?? "";
  let end = found.length;
  let surplus = 0; // unmatched closing parentheses
  for (const char of found) surplus += char === ")" ? 1 : char === "(" ? -1 : 0;
  for (; end > 0; end--) {
    if (found[end - 1] === ")" && surplus > 0) surplus--;
    else if (!TRAILING.has(found[end - 1])) break;
  }
  const address = found.slice(0, end);
  const href = safeAddress(address);
  return href ? { text: address, href, end: at + end } : null;
}

/** `<https://…>` or `<somebody@…>`: `{text, href, end}`, or null. */
export function readAngled(text, at) {
  IN_ANGLES.lastIndex = at;
  const match = IN_ANGLES.exec(text);
  const href = match && safeLink(/^(?:https?|mailto):/.test(match[1]) ? match[1] : `mailto:${match[1]}`);
  return href ? { text: match[1].replace(/^mailto:/, ""), href, end: at + match[0].length } : null;
}

/** Returns the target of a link, `{href, end}`, or null if it is not a safe address. `at` is the opening parenthesis. */
export function readTarget(text, at) {
  const limit = Math.min(text.length, at + ADDRESS_CHARS_MAX);
  const from = skipSpace(text, at + 1, limit);
  const angled = text[from] === "<";
  const end = angled ? text.slice(from, limit).search(/[>\n]/) + from : endOfTarget(text, from, limit);
  if (angled && text[end] !== ">") return null;
  const href = safeLink(decoded(text.slice(angled ? from + 1 : from, end).replace(/\\([!-/:-@[-`{-~])/g, "$1")));
  const after = skipSpace(text, angled ? end + 1 : end, limit);
  const close = skipSpace(text, skipTitle(text, after, limit), limit);
  return href && text[close] === ")" ? { href, end: close + 1 } : null;
}

function endOfTarget(text, from, limit) {
  let open = 0;
  for (let at = from; at < limit; at++) {
    const char = text[at];
    if (char === "\\") at++;
    else if (char === "(") open++;
    else if (char === ")" && open-- === 0) return at;
    else if (char === " " || char === "\n" || char === "<") return at;
  }
  return limit;
}

function skipSpace(text, from, limit) {
  let at = from;
  while (at < limit && (text[at] === " " || text[at] === "\n")) at++;
  return at;
}

function skipTitle(text, at, limit) {
  const close = TITLE_ENDS.get(text[at]);
  if (!close) return at;
  const end = text.slice(at + 1, limit).indexOf(close);
  return end < 0 ? limit : at + end + 2;
}
