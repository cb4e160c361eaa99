// The page: connects a chat, the list of chats and the composer.

import { Announcer } from "./announcements.js";
import { Api, ASKS_FOR_TOKEN } from "./api.js";
import { Attachments } from "./attachments.js";
import { Chat } from "./chat.js";
import { element, setText } from "./dom.js";
import { keepFocus } from "./focus.js";
import { textOf } from "./fold.js";
import { Transcript } from "./messages.js";
import { Outbox } from "./outbox.js";
import * as sessions from "./sessions.js";

const STATES = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  offline: "Offline, trying again",
  closed: "Not connected",
};

const at = (id) => document.getElementById(id);
const page = document.title; // the title that the application has set
const narrow = matchMedia("(max-width: 799px)");

const transcript = new Transcript({
  box: at("scroll"),
  list: at("messages"),
  toEnd: at("to-end"),
  act: {
    retry: (id) => chat.retry(id),
    edit: (id, text) => {
      transcript.follow();
      at("text").focus();
      chat.edit(id, text);
    },
    takeBack,
    sendNow: (id, how) => chat.sendNow(id, how),
    next: nextControl,
    answer: (messageId, toolCallId, approved) => chat.answer(messageId, toolCallId, approved),
    file: (address) => chat.api.file(address),
  },
});

const attachments = new Attachments({
  list: at("attached"),
  picker: at("files"),
  button: at("attach"),
  text: at("text"),
  drop: at("main"),
  changed: () => grow(),
  refuse: (message) => {
    chat.notice = { message };
    schedule();
  },
});

const outbox = new Outbox({
  post: ({ session, message, runId }) => apiOf(session).send([message], runId, { attempts: 1 }),
  changed: (session, ids) => session === chat?.id && chat.touch(ids),
  mayRefuse: (session) => session === chat?.id || sessions.tokenOf(session) !== null,
});

let chat = null;
let frame = 0;
const announcer = new Announcer();

/** Opens the session in the address, or a new one. */
function openAddressed() {
  const id = sessions.readAddress() || sessions.writeAddress(undefined, { replace: true });
  if (id === chat?.id) return;
  chat?.close();
  transcript.clear();
  attachments.clear();
  announcer.reset();
  chat = new Chat(id, { changed: schedule, token: () => sessions.tokenOf(id), aiKey: sessions.aiKey, outbox });
  chat.open();
  outbox.send(id);
  at("text").value = sessions.draftOf(id);
  grow();
  schedule();
  listSessions();
}

const apiOf = (id) => new Api(id, { token: () => sessions.tokenOf(id), aiKey: sessions.aiKey });

/** Draws once per frame, however many chunks arrive. */
function schedule() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    keepFocus(paint, nextControl);
  });
}

/** Returns the element to focus when the focused button is removed: the next question, or else the composer. */
function nextControl() {
  return at("messages").querySelector(".approval:not([hidden]) button") ?? at("text");
}

function paint() {
  const items = chat.items();
  transcript.paint(items, chat.fold.touched);
  chat.fold.touched.clear();
  const { generating } = chat.fold;
  at("typing").hidden = !chat.thinking;
  at("stop").hidden = !generating;
  if (!generating) at("stop").removeAttribute("aria-disabled");
  at("messages").toggleAttribute("data-busy", generating);
  at("welcome").hidden = !chat.opened || items.length > 0;
  paintState();
  paintNotice();
  const said = announcer.next(chat.fold);
  if (said) setText(at("announcer"), said);
  if (items.length) remember(items);
}

function paintState() {
  at("state").dataset.state = chat.state;
  setText(at("state-text"), STATES[chat.state]);
  const stale = chat.state === "reconnecting" || chat.state === "offline";
  at("state").title = stale ? "The answer goes on without you; this page catches up by itself." : "";
}

function paintNotice() {
  const said = chat.problem ?? chat.notice;
  at("notice").hidden = !said;
  setText(at("notice-text"), said?.message ?? "");
  at("notice-key").hidden = said?.code !== "missing_api_key";
  // A user who is identified by a cookie does not need a token.
  const mayTry = said?.code === "forbidden" && sessions.tokenOf(chat.id);
  at("notice-token").hidden = !(mayTry || ASKS_FOR_TOKEN.has(said?.code));
}

function remember(items) {
  const first = items.find(({ message }) => message.role === "user");
  const known = sessions.listSessions().find((session) => session.id === chat.id);
  if (!first || known) return;
  sessions.rememberSession(chat.id, textOf(first.message));
  listSessions();
}

function listSessions() {
  const listed = sessions.listSessions();
  at("no-sessions").hidden = listed.length > 0;
  keepFocus(() => at("sessions").replaceChildren(...listed.map(sessionItem)), () => at("sessions").querySelector("a") ?? at("new"));
  const title = listed.find((session) => session.id === chat.id)?.title;
  document.title = title ?? page;
  setText(at("title"), title ?? "New chat");
}

function sessionItem({ id, title }) {
  const current = id === chat.id ? "page" : null;
  const link = element("a", { href: sessions.addressOf(id), "aria-current": current, title, dir: "auto" }, title);
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return; // the browser opens a new tab, as for any link
    event.preventDefault();
    go(id);
  });
  const remove = element("button", { type: "button", class: "icon", "aria-label": `Delete “${title}”`, title: "Delete" }, "✕");
  remove.addEventListener("click", () => askToDelete(id, title));
  return element("li", {}, link, remove);
}

function go(id) {
  if (id !== chat.id) sessions.writeAddress(id);
  openAddressed();
  showMenu(false);
  at("text").focus();
}

function askToDelete(id, title) {
  setText(at("delete-title"), title);
  at("delete").returnValue = "";
  at("delete").onclose = () => at("delete").returnValue === "yes" && remove(id);
  at("delete").showModal();
}

/** Removes a chat from this browser's list immediately, and from the server if that is allowed. */
async function remove(id) {
  const removed = apiOf(id).remove().then(() => null, (error) => error);
  sessions.forgetSession(id);
  outbox.forget(id);
  if (id === chat.id) go(undefined);
  else listSessions();
  const error = await removed;
  if (!error) return;
  chat.notice = { message: "The chat is off this browser's list, but the server still has it." };
  schedule();
}

function showMenu(shown) {
  document.body.toggleAttribute("data-menu", shown);
  at("menu").setAttribute("aria-expanded", String(shown));
  at("sidebar").inert = narrow.matches && !shown;
}

function send(text) {
  if (!(text.trim() || attachments.ready) || attachments.reading || chat.problem) return;
  chat.notice = null;
  transcript.follow();
  sessions.rememberSession(chat.id, text.trim() || attachments.name);
  listSessions();
  chat.send(text.trim(), attachments.take());
  draft("");
}

/** Sets the composer's text and stores it as this chat's draft. */
function draft(text) {
  at("text").value = text;
  sessions.keepDraft(chat.id, text);
  grow();
}

/** Puts a message that is not answered yet back into the composer, before the current text. */
async function takeBack(id) {
  const { api } = chat;
  const message = await chat.takeBack(id);
  if (!message || chat.api !== api) return;
  attachments.restore(message.parts, (address) => api.blob(address));
  draft([textOf(message), at("text").value].filter(Boolean).join("\n\n"));
  at("text").focus();
}

/** Makes the composer as high as its text, within the limits of the style. */
function grow() {
  at("text").style.height = "auto";
  at("text").style.height = `${at("text").scrollHeight}px`;
  at("send").disabled = attachments.reading || !(at("text").value.trim() || attachments.ready);
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send(at("text").value);
});
at("text").addEventListener("input", () => draft(at("text").value));
at("text").addEventListener("keydown", (event) => {
  // While an input method composes a word, Enter ends the word and does not send the message.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send(at("text").value);
});
/** Does not disable the button while it works, because a disabled button loses the focus. */
async function stop() {
  if (at("stop").hasAttribute("aria-disabled")) return;
  at("stop").setAttribute("aria-disabled", "true");
  await chat.stop();
  if (chat.notice) at("stop").removeAttribute("aria-disabled");
}
at("stop").addEventListener("click", stop);
at("new").addEventListener("click", () => go(undefined));
at("menu").addEventListener("click", () => showMenu(!document.body.hasAttribute("data-menu")));
at("shade").addEventListener("click", () => showMenu(false));
at("suggestions").addEventListener("click", (event) => {
  if (event.target.closest("button")) send(event.target.closest("button").textContent);
});
at("notice-close").addEventListener("click", () => {
  chat.notice = chat.problem = null;
  schedule();
});

function openSettings() {
  at("ai-key").value = sessions.aiKey() ?? "";
  at("settings").showModal();
}
at("settings-open").addEventListener("click", openSettings);
at("notice-key").addEventListener("click", openSettings);
// Not a submit button: Enter in the field activates the first submit button, which must be Save.
at("settings-cancel").addEventListener("click", () => at("settings").close("cancel"));
at("settings").addEventListener("close", () => {
  if (at("settings").returnValue === "save") sessions.keepAiKey(at("ai-key").value.trim());
  at("ai-key").value = at("settings").returnValue = "";
});

at("notice-token").addEventListener("click", () => at("token").showModal());
at("token-cancel").addEventListener("click", () => at("token").close("cancel"));
at("token").addEventListener("close", () => {
  if (at("token").returnValue === "save") enter(at("token-text").value.trim());
  at("token-text").value = at("token").returnValue = "";
});

/** Opens the chat that the token is for, or this one if the token does not say. */
function enter(token) {
  const id = sessions.subjectOf(token) ?? chat.id;
  sessions.keepToken(id, token);
  if (id === chat.id) chat.reopen();
  else go(id);
}

addEventListener("keydown", (event) => {
  // While an input method composes or a dialog is open, Escape belongs to them.
  if (event.key !== "Escape" || event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
  if (document.body.hasAttribute("data-menu")) showMenu(false);
  else if (chat.fold.generating) stop();
});
addEventListener("popstate", openAddressed);
addEventListener("hashchange", () => {
  openAddressed(); // uses a new token for a chat whose old one has expired
  chat.reopen();
});
narrow.addEventListener("change", () => showMenu(false));
sessions.watchSessions(listSessions);
sessions.watchDrafts((id, text) => id === chat.id && at("text").value === text && draft(""));

showMenu(false);
openAddressed();
outbox.begin();
