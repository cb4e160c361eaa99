// Draws emphasis, code and links inside a block.

import { element } from "./dom.js";
import { parseSpans } from "./spans.js";

const DRAW = new Map([
  ["text", ({ text }) => document.createTextNode(text)],
  ["br", () => element("br")],
  ["code", ({ text }) => element("code", {}, text)],
  ["math", ({ text }) => element("span", { class: "math" }, text)],
  ["note", ({ label }) => element("sup", {}, element("button", { type: "button", class: "note", "data-note": label, "aria-label": `Footnote ${label}` }, label))],
  ["link", ({ href, nodes }) => link(href, draw(nodes, true))],
]);

/** Returns the nodes of a text. `lookup` resolves its references (see `parseSpans`). */
export const inline = (text, lookup) => draw(parseSpans(text, lookup));

function draw(nodes, inLink = false) {
  return nodes.flatMap((node) => {
    if (node.type === "image") return drawPicture(node, inLink);
    return DRAW.get(node.type)?.(node) ?? element(node.type, {}, draw(node.nodes, inLink));
  });
}

/** Shows an image as a link: nothing is loaded from another site without a click. */
function drawPicture({ href, nodes }, inLink) {
  const label = draw(nodes, true);
  const shown = label.length ? label : [document.createTextNode("picture")];
  return inLink ? shown : [link(href, shown, "picture")];
}

function link(href, label, style = null) {
  const shown = label.length ? label : [href];
  return element("a", { href, class: style, target: "_blank", rel: "noopener noreferrer" }, shown);
}
