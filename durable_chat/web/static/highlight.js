// Simple syntax highlighting: comments, strings, numbers and keywords of common languages.

export const HIGHLIGHT_CHARS_MAX = 100_000; // each token becomes an element; longer code is not highlighted

const words = (text) => new Set(text.split(" "));

const C_LIKE =
  "abstract as async await auto bool boolean break byte case catch char class const continue debugger default defer delete do double else enum export extends extern false final finally float fn for from func function go goto if implements import in instanceof int interface internal let long loop match mod move mut namespace new nil null of override package private protected pub public range readonly return self short signed sizeof static string struct super switch this throw throws trait true try type typedef typeof undefined union unsafe unsigned use using val var virtual void volatile when where while with yield";
const PYTHON =
  "and as assert async await break class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield";
const RUBY = "alias and begin break case class def do else elsif end ensure false for if in module next nil not or raise require rescue return self super then true unless until when while yield";
const SHELL = "case cd do done echo elif else esac exit export fi for function if in local read return select set shift source sudo then until while";
const SQL =
  "add all alter and as asc begin between by case cast check column commit constraint create cross default delete desc distinct drop else end exists false foreign from full group having if in index inner insert into is join key left like limit not null offset on or order outer primary references returning right rollback select set table then true union unique update using values view when where with";
const DATA = "true false null yes no on off";

const STRINGS = String.raw`"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?`;
const SLASHES = String.raw`//[^\n]*|/\*[^]*?(?:\*/|$)`;
const HASH = String.raw`#[^\n]*`;
const TICKS = "`(?:[^`\\\\]|\\\\[^])*`?";
const TRIPLE = String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)`;

// No alternative needs backtracking, so the time is linear in the length of the code.
function grammar(comment, string, keywords, { caseless = false } = {}) {
  const number = String.raw`\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\b`;
  const pattern = `(?<comment>${comment})|(?<string>${string})|(?<number>${number})|(?<word>[A-Za-z_$][\\w$]*)`;
  return { pattern: new RegExp(pattern, "g"), keywords: words(keywords), caseless };
}

const GRAMMARS = {
  c: grammar(SLASHES, `${STRINGS}|${TICKS}`, C_LIKE),
  rust: grammar(SLASHES, String.raw`"(?:[^"\\]|\\[^])*"?|'(?:[^'\\\n]|\\.)'`, C_LIKE),
  python: grammar(HASH, `${TRIPLE}|${STRINGS}`, PYTHON),
  ruby: grammar(HASH, STRINGS, RUBY),
  shell: grammar(String.raw`(?<![\w$\{])#[^\n]*`, STRINGS, SHELL),
  sql: grammar(String.raw`--[^\n]*|/\*[^]*?(?:\*/|$)`, String.raw`'(?:[^'])*'?|"[^"\n]*"?`, SQL, { caseless: true }),
  data: grammar(HASH, STRINGS, DATA),
  css: grammar(String.raw`/\*[^]*?(?:\*/|$)`, STRINGS, "important media supports keyframes import from to"),
  markup: grammar(String.raw`<!--[^]*?(?:-->|$)`, STRINGS, ""),
};

const NAMES = {
  c: "c h cc cpp c++ hpp cs csharp java js javascript jsx mjs ts typescript tsx go golang kotlin kt swift scala dart php objc zig",
  rust: "rust rs",
  python: "python py python3",
  ruby: "ruby rb",
  shell: "bash sh shell zsh console",
  sql: "sql postgresql sqlite mysql",
  data: "json jsonc yaml yml toml ini dockerfile makefile",
  css: "css scss less",
  markup: "html xml svg vue",
};
const LANGUAGES = new Map(Object.entries(NAMES).flatMap(([name, aliases]) => aliases.split(" ").map((alias) => [alias, GRAMMARS[name]])));

/** Returns all of the code as `[{kind, text}]`; kind is comment, string, number, keyword or null. */
export function highlight(code, language) {
  const known = LANGUAGES.get(language.toLowerCase());
  if (!known || code.length > HIGHLIGHT_CHARS_MAX) return [{ kind: null, text: code }];
  const pieces = [];
  let plain = 0;
  for (const { 0: text, index, groups } of code.matchAll(known.pattern)) {
    const kind = kindOf(groups, known);
    if (!kind) continue;
    if (index > plain) pieces.push({ kind: null, text: code.slice(plain, index) });
    pieces.push({ kind, text });
    plain = index + text.length;
  }
  if (plain < code.length) pieces.push({ kind: null, text: code.slice(plain) });
  return pieces;
}

function kindOf({ comment, string, number, word }, { keywords, caseless }) {
  if (word !== undefined) return keywords.has(caseless ? word.toLowerCase() : word) ? "keyword" : null;
  return comment !== undefined ? "comment" : string !== undefined ? "string" : number !== undefined ? "number" : null;
}
