// Actions on a message: copy it, edit it, request another answer.

import { element, setText } from "./dom.js";
import { textOf } from "./fold.js";

const COPIED_MS = 2_000;

/** Copies a text, and shows the result in the button. */
export async function copyTo(button, text) {
  const label = button.dataset.label ?? button.textContent;
  button.dataset.label = label;
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  setText(button, copied ? "Copied" : "Select it to copy");
  setTimeout(() => setText(button, label), COPIED_MS);
}

/**
 * The row of buttons below a message. `edit` and `again` change the messages after it, so the page hides them
 * (`data-idle`) while an answer is being written.
 */
export class Tools {
  element = element("div", { class: "tools", role: "group", "aria-label": "This message" });
  #message = null;

  constructor({ edit, again }) {
    const copy = this.#button("Copy", "Copy this message", () => copyTo(copy, textOf(this.#message)));
    if (edit) this.edit = this.#button("Edit", "Edit this message; what follows it is dropped", edit, true);
    if (again) this.#button("Regenerate", "Answer again; what follows is dropped", again, true);
  }

  #button(label, title, act, idle = false) {
    const made = element("button", { type: "button", title, "data-idle": idle }, label);
    made.addEventListener("click", act);
    this.element.append(made);
    return made;
  }

  /** There are no actions on a message that is being sent or written. */
  update(message, { live, waiting }) {
    this.#message = message;
    this.element.hidden = Boolean(live || waiting);
  }
}

/** An editor in the place of a message. `done` is called with the text, or with null if nothing changes. */
export class Editor {
  constructor(text, done) {
    this.text = element("textarea", { rows: 1, dir: "auto", "aria-label": "Edit the message" });
    this.text.value = text;
    const cancel = element("button", { type: "button", class: "quiet small" }, "Cancel");
    const send = element("button", { class: "primary small" }, "Send");
    this.element = element("form", { class: "editor" }, this.text, element("div", { class: "actions" }, cancel, send));
    const finish = () => done(this.text.value.trim() && this.text.value.trim() !== text.trim() ? this.text.value.trim() : null);
    cancel.addEventListener("click", () => done(null));
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      finish();
    });
    this.text.addEventListener("input", () => this.#grow());
    this.element.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") done(null);
      else if (event.key === "Enter" && !event.shiftKey && event.target === this.text) finish();
      else return;
      event.preventDefault();
      event.stopPropagation(); // otherwise Escape stops an answer
    });
  }

  focus() {
    this.#grow();
    this.text.focus();
    this.text.setSelectionRange(this.text.value.length, this.text.value.length);
  }

  #grow() {
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight}px`;
  }
}
