// The visible transcript: one element for each message, which is drawn again only when it changes.

import { element } from "./dom.js";
import { focusOr } from "./focus.js";
import { textOf } from "./fold.js";
import { show, UnreadableView, viewOf } from "./parts.js";
import { copyTo, Editor, Tools } from "./tools.js";

const AT_END_PX = 80; // closer to the end than this, the view follows the answer

// The note on a cut-off answer, by its finish reason.
const CUTS = new Map([
  ["length", "The answer reached its length limit and was cut off."],
  ["content_filter", "The answer was cut off by the provider's filter."],
]);

/** One message. `status` is what the page knows about it: `{live, error, stopped, cut, waiting, retry, takeBack,
 * sendNow, summary}`. */
class MessageView {
  #views = [];
  #footer = element("div", { class: "footer" });
  #tools;
  #message;

  constructor(message, act) {
    this.role = message.role;
    this.act = { answer: (toolCallId, approved) => act.answer(message.id, toolCallId, approved), file: act.file };
    this.retry = () => act.retry(message.id);
    this.takeBack = () => act.takeBack(message.id);
    this.sendNow = (how) => act.sendNow(message.id, how);
    this.body = element("div", { class: "body" });
    const who = element("h2", { class: "visually-hidden" }, this.role === "user" ? "You" : "Answer");
    const isAnswer = this.role === "assistant";
    this.next = act.next;
    this.edited = (text) => act.edit(message.id, text);
    this.#tools = new Tools({ edit: this.role === "user" ? () => this.#edit() : null, again: isAnswer ? this.retry : null });
    this.element = element("article", { class: `message ${this.role}`, "data-id": message.id }, who, this.body, this.#footer, this.#tools.element);
  }

  update(message, status) {
    this.#message = message;
    this.#tools.update(message, status);
    const { parts } = message;
    parts.forEach((part, i) => this.#part(part, i, status.live && i === parts.length - 1));
    for (const gone of this.#views.splice(parts.length)) gone.view?.element.remove();
    this.element.toggleAttribute("data-live", Boolean(status.live));
    this.element.toggleAttribute("data-empty", !parts.some((part) => part.type !== "text" || part.content));
    this.element.toggleAttribute("data-waiting", Boolean(status.waiting));
    this.element.setAttribute("aria-busy", String(Boolean(status.live)));
    this.#foot(status);
  }

  /** Draws a part. An error in a part does not affect the others. */
  #part(part, i, live) {
    try {
      if (this.#views[i]?.type !== part.type) this.#put(i, part.type, viewOf(part, this.role, this.act));
      const { view } = this.#views[i];
      if (view) show(view, part, live || (part.type === "tool-call" && this.element.hasAttribute("data-live")));
    } catch {
      this.#put(i, part.type, new UnreadableView());
    }
  }

  /** Puts a view in its place among the other parts' views. Null is a part that is not shown. */
  #put(i, type, view) {
    const old = this.#views[i]?.view;
    this.#views[i] = { type, view };
    if (old && view) old.element.replaceWith(view.element);
    else if (old) old.element.remove();
    else if (view) this.body.insertBefore(view.element, this.#after(i));
  }

  #after(i) {
    for (let at = i + 1; at < this.#views.length; at++) if (this.#views[at].view) return this.#views[at].view.element;
    return null;
  }

  #edit() {
    if (this.body.hidden) return;
    const editor = new Editor(textOf(this.#message), (text) => {
      editor.element.remove();
      this.body.hidden = false;
      if (text === null) focusOr(this.#tools.edit, this.next); // an answer that began meanwhile hides the button
      else this.edited(text);
    });
    this.body.hidden = true;
    this.body.after(editor.element);
    editor.focus();
  }

  #foot({ error, stopped, cut, waiting, retry, takeBack, sendNow, summary }) {
    const key = JSON.stringify([error?.message, stopped, cut, waiting, retry, takeBack, sendNow, summary]);
    if (key === this.footed) return;
    this.footed = key;
    this.#footer.replaceChildren();
    if (error) this.#footer.append(this.#alert(error, retry, takeBack));
    else if (stopped) this.#footer.append(element("p", { class: "hint" }, "Stopped"));
    else if (cut) this.#footer.append(element("p", { class: "hint" }, CUTS.get(cut) ?? `The answer was cut off (${cut}).`));
    else if (waiting) this.#footer.append(element("p", { class: "hint" }, waiting));
    if (waiting && takeBack && !error) this.#footer.append(button("Take back", this.takeBack));
    if (waiting && sendNow && !error) this.#footer.append(button(sendNow.steers ? "Send now" : "Stop the answer and send now", () => this.sendNow(sendNow)));
    if (summary) this.#footer.append(summaryNote(summary));
  }

  #alert(error, retry, takeBack) {
    const alert = element("div", { class: "alert", role: "alert" }, element("p", {}, error.message));
    if (retry) alert.append(button("Try again", this.retry));
    if (takeBack) alert.append(button("Take back", this.takeBack));
    return alert;
  }
}

/** The note below the last message that the model is given only as a summary. */
function summaryNote({ text, failure }) {
  const label = failure ? "Earlier messages are left out for the model" : "Earlier messages are summarized for the model";
  if (!text) return element("p", { class: "hint" }, label);
  return element("details", { class: "summary-note" }, element("summary", {}, label), element("p", { class: "plain", dir: "auto" }, text));
}

function button(text, act) {
  const made = element("button", { type: "button", class: "quiet small" }, text);
  made.addEventListener("click", act);
  return made;
}

/** The list of messages in a scrolling box. */
export class Transcript {
  #views = new Map();

  constructor({ box, list, toEnd, act }) {
    Object.assign(this, { box, list, toEnd, act, following: true });
    box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    toEnd.addEventListener("click", () => this.follow());
    list.addEventListener("click", copyCode);
    list.addEventListener("click", goToNote);
    new ResizeObserver(() => this.#settle()).observe(list);
  }

  /** Draws `items` (`{message, status}`, in order). Of items drawn before, only those with `touched` ids are drawn again. */
  paint(items, touched) {
    const ids = new Set(items.map(({ message }) => message.id));
    for (const [id, view] of this.#views) if (!ids.has(id)) this.#drop(id, view);
    let place = this.list.firstElementChild;
    for (const { message, status } of items) {
      let view = this.#views.get(message.id);
      if (view && view.role !== message.role) view = this.#drop(message.id, view);
      const isNew = !view;
      if (isNew) this.#views.set(message.id, (view = new MessageView(message, this.act)));
      if (isNew || touched.has(message.id)) draw(view, message, status);
      if (view.element === place) place = place.nextElementSibling;
      else this.list.insertBefore(view.element, place?.isConnected ? place : null);
    }
    this.#settle();
  }

  clear() {
    for (const [id, view] of this.#views) this.#drop(id, view);
    this.follow();
  }

  /** Scrolls to the end and follows the growing answer. */
  follow() {
    this.following = true;
    this.#settle();
  }

  #drop(id, view) {
    view.element.remove();
    this.#views.delete(id);
  }

  #settle() {
    if (this.following) this.box.scrollTop = this.box.scrollHeight;
    this.toEnd.hidden = this.following;
  }

  #scrolled() {
    const below = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
    this.following = below <= AT_END_PX;
    this.toEnd.hidden = this.following;
  }
}

/** Draws a message. An error does not affect other messages. */
function draw(view, message, status) {
  try {
    view.update(message, status);
  } catch (error) {
    console.debug("A message cannot be shown:", message.id, error);
  }
}

function copyCode(event) {
  const button = event.target.closest("[data-copy]");
  if (button) copyTo(button, button.closest(".code").querySelector("code").textContent);
}

function goToNote(event) {
  const label = event.target.closest("[data-note]")?.dataset.note;
  if (label === undefined) return;
  const notes = [...event.target.closest(".prose").querySelectorAll("[data-footnote]")];
  notes.find((note) => note.dataset.footnote === label)?.focus();
}
