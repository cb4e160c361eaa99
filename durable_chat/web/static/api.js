// Calls to the server's routes, and its errors in words for users.

import { post } from "./durable-chat.js";
import { ask, ChatError, errorOf, withQuery } from "./durable-chat-reads.js";

const SEND_ATTEMPTS_MAX = 4; // enough for a short outage; after that, a button is shown
const ANSWER_MAX_MS = 30_000; // the timeout of a request

export const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Returns the same error with a message that tells the user what to do. */
export function explained(error) {
  error.message = ACCESS[error.code] ?? explain(error);
  return error;
}

function explain({ status, said, retryAfter }) {
  const text = said ?? DEFAULTS[status] ?? `The server answered with an error (${status}).`;
  if (retryAfter === null || (status !== 429 && status !== 503)) return text;
  return `${text} Try again in ${retryAfter <= 1 ? "a second" : `${retryAfter} seconds`}.`;
}

// The server cannot know what a user of this page can do about these errors.
const ACCESS = {
  missing_token: "This chat asks for a token. Enter the one you were given, or open the link you were sent.",
  bad_token: "The server does not take this token. Enter the one you were given, or open the link you were sent again.",
  expired_token: "Your access to this chat has expired. Enter a new token to go on where you were.",
};
/** Errors that a different token may fix; also `forbidden`, if a token was sent. */
export const ASKS_FOR_TOKEN = new Set(Object.keys(ACCESS));

const DEFAULTS = {
  0: "The server cannot be reached. Check your connection and try again.",
  401: "You are not signed in to this chat, or your access has expired.",
  403: "You may not do this in this chat.",
  404: "The server does not know this address.",
  413: "This message is too long.",
  429: "Too many requests.",
  500: "Something went wrong on the server.",
  502: "Something went wrong on the server.",
  503: "The server is busy or restarting.",
};

/** Calls the server for one session. `token` is a function, because it may change while the page is open. */
export class Api {
  constructor(session, { token = () => null, aiKey = () => null } = {}) {
    this.session = session;
    this.token = token;
    this.aiKey = aiKey;
  }

  headers() {
    const token = this.token();
    return token ? { Authorization: `Bearer ${token}` } : {};
  }

  /** Addresses are relative to the page, so that it works at any mount point. */
  route(path) {
    return withQuery(path, { id: this.session });
  }

  /** `{messages, offset, activeRun, contextSummary?}` */
  async snapshot() {
    const response = await this.#request("GET", this.route("api/chat-snapshot"));
    return response.json();
  }

  /** Posts messages. A request without a response is sent again: `runId` makes it idempotent. */
  async send(messages, runId, { attempts = SEND_ATTEMPTS_MAX } = {}) {
    const headers = { "Content-Type": "application/json", "X-Run-Id": runId };
    const key = this.aiKey();
    if (key) headers["x-api-key"] = key;
    const init = { headers, body: JSON.stringify({ messages }) };
    const options = { headers: () => this.headers(), attempts };
    await post(this.route("api/chat"), options, init).catch((error) => {
      throw explained(error);
    });
  }

  /** Returns a file of the chat. */
  async blob(address) {
    return (await this.#request("GET", address)).blob();
  }

  /** Returns a file of the chat as a blob, or null without a token: its address is enough then. */
  async file(address) {
    return this.token() ? this.blob(address) : null;
  }

  async stop() {
    await this.#request("POST", this.route("api/chat-stop"));
  }

  async takeBack(messageId) {
    await this.#request("DELETE", withQuery(this.route("api/chat-turns"), { messageId }));
  }

  async sendNow(messageId, turns) {
    await this.#request("POST", withQuery(this.route("api/chat-turns"), { messageId, turns }));
  }

  async remove() {
    await this.#request("DELETE", this.route("api/chat"));
  }

  async #request(method, url) {
    const signal = AbortSignal.timeout(ANSWER_MAX_MS);
    const response = await ask(url, { headers: () => this.headers() }, { method, signal }).catch(() => null);
    if (!response?.ok) throw explained(response ? await errorOf(response) : new ChatError());
    return response;
  }
}
