// Creates elements with text nodes. Nothing on the page parses text as markup.

/** `element("a", {class: "x", href: url}, "text", child, [more])`; null children and attributes are omitted. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    made.setAttribute(name, value === true ? "" : value);
  }
  // One by one, because a call has a maximum number of arguments.
  for (const child of children.flat()) if (child != null) made.append(child);
  return made;
}

/** Sets the text only if it differs, to keep the user's selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
