// The common named characters of HTML. Others are shown as they are written.

const NAMED = new Map(
  Object.entries({
    amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", ensp: "\u2002", emsp: "\u2003", thinsp: "\u2009",
    copy: "©", reg: "®", trade: "™", hellip: "…", mdash: "—", ndash: "–", bull: "•", middot: "·", lsquo: "‘", rsquo: "’",
    ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", sect: "§", para: "¶", deg: "°", plusmn: "±", times: "×", divide: "÷",
    minus: "−", ne: "≠", le: "≤", ge: "≥", asymp: "≈", equiv: "≡", infin: "∞", sum: "∑", prod: "∏", radic: "√", int: "∫",
    part: "∂", nabla: "∇", isin: "∈", notin: "∉", cap: "∩", cup: "∪", sub: "⊂", sup: "⊃", and: "∧", or: "∨", forall: "∀",
    exist: "∃", larr: "←", uarr: "↑", rarr: "→", darr: "↓", harr: "↔", lArr: "⇐", rArr: "⇒", hArr: "⇔", euro: "€", pound: "£",
    yen: "¥", cent: "¢", frac12: "½", frac14: "¼", frac34: "¾", sup1: "¹", sup2: "²", sup3: "³", micro: "µ", permil: "‰",
    alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", theta: "θ", lambda: "λ", mu: "μ", pi: "π", rho: "ρ", sigma: "σ",
    tau: "τ", phi: "φ", omega: "ω", Gamma: "Γ", Delta: "Δ", Theta: "Θ", Lambda: "Λ", Pi: "Π", Sigma: "Σ", Phi: "Φ", Omega: "Ω",
    auml: "ä", ouml: "ö", uuml: "ü", Auml: "Ä", Ouml: "Ö", Uuml: "Ü", szlig: "ß", eacute: "é", egrave: "è", agrave: "à",
    ccedil: "ç", ntilde: "ñ", aring: "å", oslash: "ø", check: "✓", star: "☆",
  }),
);
const ENTITY = /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|([A-Za-z]\w{1,7}));/y;
const ENTITIES = new RegExp(ENTITY.source, "g");
const CODE_POINT_MAX = 0x10ffff;

/** Returns `{text, end}` of the entity at a position, or null. */
export function readEntity(text, at) {
  ENTITY.lastIndex = at;
  const match = ENTITY.exec(text);
  const read = match && characterOf(match);
  return read ? { text: read, end: at + match[0].length } : null;
}

export const decoded = (text) => text.replace(ENTITIES, (...match) => characterOf(match) ?? match[0]);

function characterOf([, decimal, hexadecimal, name]) {
  if (name) return NAMED.get(name) ?? null;
  const code = decimal ? Number.parseInt(decimal, 10) : Number.parseInt(hexadecimal, 16);
  const isCharacter = code > 0 && code <= CODE_POINT_MAX && !(code >= 0xd800 && code < 0xe000);
  return isCharacter ? String.fromCodePoint(code) : "\ufffd";
}
