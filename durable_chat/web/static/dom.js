// Elements made of text nodes. Nothing here, or anywhere on the page, reads text as markup.

/** `element("a", {class: "x", href: url}, "text", child, [more])`; a null child or attribute is left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    made.setAttribute(name, value === true ? "" : value);
  }
  // One by one: there may be more than a call takes.
  for (const child of children.flat()) if (child != null) made.append(child);
  return made;
}

/** Sets text only where it differs, so that a selection in it survives. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
