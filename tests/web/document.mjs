// The part of a document that drawing a line needs. Elements are plain text that shows what they are.
class FakeNode {
  constructor(tag, text = "") {
    Object.assign(this, { tag, text, children: [], attributes: {} });
  }
  append(...children) {
    for (const child of children) this.children.push(typeof child === "string" ? new FakeNode(null, child) : child);
  }
  setAttribute(name, value) {
    this.attributes[name] = value;
  }
  toString() {
    if (this.tag === null) return this.text;
    const href = this.attributes.href ? ` ${this.attributes.href}` : "";
    return `{${this.tag}${href}:${this.children.join("")}}`;
  }
}
globalThis.document = {
  createElement: (tag) => new FakeNode(tag),
  createTextNode: (text) => new FakeNode(null, text),
};
