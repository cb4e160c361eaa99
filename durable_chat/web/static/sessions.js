// The chats that this browser knows, and the one in the address.

import { newId } from "./durable-chat-reads.js";

const KEY = "durable-chat.sessions";
const SESSIONS_MAX = 200; // older chats are still on the server
const TITLE_CHARS_MAX = 60;

/**
 * Returns the session of the address, or else of the token, and the token from the fragment, which is stored for this tab
 * and removed from the address.
 */
export function readAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  const id = new URL(location.href).searchParams.get("id") || subjectOf(token);
  if (id && token) {
    keepToken(id, token);
    history.replaceState(null, "", addressOf(id));
  }
  return id;
}

const tokenKey = (id) => `durable-chat.token.${id}`;

export const tokenOf = (id) => recall("sessionStorage", tokenKey(id));
export const keepToken = (id, token) => keep("sessionStorage", tokenKey(id), token);

/** Returns the session of a token, or null. Only the server can verify the token. */
export function subjectOf(token) {
  try {
    const text = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    const { sub } = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (char) => char.charCodeAt(0))));
    return typeof sub === "string" && sub ? sub : null;
  } catch {
    return null; // no token, or one of another kind
  }
}

const draftKey = (id) => `durable-chat.draft/${encodeURIComponent(id)}`;

/** The unsent text in a chat's composer. */
export const draftOf = (id) => recall("localStorage", draftKey(id)) ?? "";
export const keepDraft = (id, text) => keep("localStorage", draftKey(id), text);

/** Calls `cleared` with a chat and its draft when another tab has sent it. */
export function watchDrafts(cleared) {
  const folder = draftKey("");
  addEventListener("storage", ({ key, oldValue, newValue }) => {
    if (key?.startsWith(folder) && oldValue && !newValue) cleared(decodeURIComponent(key.slice(folder.length)), oldValue);
  });
}

const AI_KEY = "durable-chat.ai-key";
export const aiKey = () => recall("sessionStorage", AI_KEY);
export const keepAiKey = (key) => keep("sessionStorage", AI_KEY, key);

export const addressOf = (id) => `?${new URLSearchParams({ id })}`;

/** Puts a session into the address. Without an id, creates a new one. */
export function writeAddress(id = newId(), { replace = false } = {}) {
  if (replace) history.replaceState(null, "", addressOf(id));
  else history.pushState(null, "", addressOf(id));
  return id;
}

/** `[{id, title, at}]`, newest first. */
export function listSessions() {
  try {
    const listed = JSON.parse(recall("localStorage", KEY) ?? "[]");
    return listed.filter((session) => typeof session?.id === "string").sort((a, b) => b.at - a.at);
  } catch {
    return []; // somebody else's data under our name
  }
}

/** Adds a session, or moves it to the top. The first title is kept. */
export function rememberSession(id, text, at = Date.now()) {
  const others = listSessions();
  const known = others.find((session) => session.id === id);
  const title = known?.title || titleOf(text);
  const listed = [{ id, title, at: Math.max(at, known?.at ?? 0) }, ...others.filter((session) => session.id !== id)];
  keep("localStorage", KEY, JSON.stringify(listed.slice(0, SESSIONS_MAX)));
}

export function forgetSession(id) {
  keep("localStorage", KEY, JSON.stringify(listSessions().filter((session) => session.id !== id)));
  keepToken(id, null);
  keepDraft(id, null);
}

/** Calls `changed` when another tab changes the list. */
export function watchSessions(changed) {
  addEventListener("storage", (event) => {
    if (event.key === KEY || event.key === null) changed();
  });
}

function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  if (line.length <= TITLE_CHARS_MAX) return line || "New chat";
  return `${line.slice(0, TITLE_CHARS_MAX).replace(/\s\S*$/, "")}…`;
}

// A browser may disable storage. The chat then works, but the list and the keys are lost on a reload.
function recall(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

function keep(storage, key, value) {
  try {
    if (value) window[storage].setItem(key, value);
    else window[storage].removeItem(key);
  } catch {
    // full or disabled: see above
  }
}
