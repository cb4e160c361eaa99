// The parts of a message: text, thinking, tools, images and data. Each is drawn once and then updated.
//
// `UnreadableView` replaces a part that cannot be drawn, so the rest of the message is still shown.

import { MarkdownView } from "./blocks.js";
import { element, setText } from "./dom.js";
import { MediaView } from "./media.js";
import { recordOr, textOr } from "./shapes.js";

const SHOWN_CHARS_MAX = 20_000; // of a tool's arguments or result; more is cut, and says so

/** Returns a view of a part for a message of this role, or null if the part is not shown. */
export function viewOf(part, role, act) {
  if (part.type === "text") return role === "user" ? new PlainView() : new MarkdownView();
  if (UNSEEN.has(part.type)) return null;
  const View = VIEWS.get(part.type) ?? UnreadableView;
  return new View(act);
}

/** Updates a view. `live` is true while the part is being written. */
export function show(view, part, live) {
  if (view instanceof MarkdownView) view.update(part.content);
  else view.update(part, live);
}

class PlainView {
  element = element("div", { class: "plain", dir: "auto" });

  update(part) {
    setText(this.element, part.content);
  }
}

export class UnreadableView {
  element = element("p", { class: "chip unreadable" }, "This part cannot be shown");

  update() {}
}

class ThinkingView {
  #label = element("span", { class: "label" });
  #text = new MarkdownView("prose thoughts");
  element = element("details", { class: "thinking" }, element("summary", {}, this.#label), this.#text.element);

  update(part, live) {
    setText(this.#label, live ? "Thinking…" : "Thought about it");
    this.element.toggleAttribute("data-live", live);
    this.#text.update(part.content);
  }
}

const TOOL_STATES = new Map([
  ["awaiting-input", "Preparing"],
  ["input-streaming", "Preparing"],
  ["input-complete", "Running"],
  ["approval-requested", "Needs your approval"],
  ["complete", "Done"],
  ["error", "Failed"],
]);

class ToolView {
  #name = element("span", { class: "tool-name" });
  #state = element("span", { class: "tool-state" });
  #arguments = new Labelled("Arguments");
  #result = new Labelled("Result");
  #answer;

  constructor(act) {
    const summary = element("summary", {}, this.#name, this.#state);
    this.details = element("details", {}, summary, this.#arguments.element, this.#result.element);
    this.#answer = element("div", { class: "approval", role: "group", "aria-label": "Approval", hidden: true });
    const button = (label, approved, style) => {
      const made = element("button", { type: "button", class: style }, label);
      made.addEventListener("click", () => act.answer(this.id, approved));
      return made;
    };
    this.#answer.append(button("Approve", true, "primary small"), button("Deny", false, "quiet small"));
    this.element = element("div", { class: "tool" }, this.details, this.#answer);
  }

  update(part, live) {
    const asks = part.state === "approval-requested";
    const interrupted = !live && !asks && ["awaiting-input", "input-streaming", "input-complete"].includes(part.state);
    this.id = part.id;
    this.element.dataset.state = interrupted ? "ended" : textOr(part.state);
    setText(this.#name, part.name);
    setText(this.#state, interrupted ? "No result" : stateOf(part));
    this.#arguments.update(part.arguments || (part.input === undefined ? "" : JSON.stringify(part.input)));
    this.#result.update(part.output === undefined ? "" : part.output);
    if (asks && this.#answer.hidden) this.details.open = true; // the user sees the arguments before approving the call
    this.#answer.hidden = !asks;
  }
}

function stateOf(part) {
  if (recordOr(part.approval).approved === false) return "Denied";
  if (part.state === "approval-responded") return "Approved";
  return TOOL_STATES.get(part.state) ?? textOr(part.state);
}

/** A label above a block of data. Hidden without data. */
class Labelled {
  #code = element("code");
  #value;

  constructor(label) {
    this.element = element("div", { class: "data" }, element("h3", {}, label), element("pre", { tabindex: "0" }, this.#code));
  }

  update(value) {
    if (value === this.#value) return;
    this.#value = value;
    const text = pretty(value);
    this.element.hidden = text === "";
    setText(this.#code, text.length > SHOWN_CHARS_MAX ? `${text.slice(0, SHOWN_CHARS_MAX)}\n… and more` : text);
  }
}

function pretty(value) {
  if (typeof value !== "string") return JSON.stringify(value, null, 2);
  if (value.length > SHOWN_CHARS_MAX) return value; // long data grows with every delta, and most of it is not shown
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value; // not JSON, or not complete yet
  }
}

class DataView {
  #data = new Labelled("Data");
  element = this.#data.element;

  update(part) {
    this.#data.update(part.data ?? part.raw ?? "");
  }
}

const VIEWS = new Map([
  ["thinking", ThinkingView],
  ["tool-call", ToolView],
  ["structured-output", DataView],
  ["image", MediaView],
  ["audio", MediaView],
  ["video", MediaView],
  ["document", MediaView],
]);
// Parts that are not shown: for example, a tool's result is shown with its call.
const UNSEEN = new Set(["tool-result", "ui-resource", "step-start"]);
