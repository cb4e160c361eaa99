// The server's routes, and its errors in words a person understands.

const SEND_ATTEMPTS_MAX = 4; // a deploy or a short outage is over by then; the run id makes repeats harmless
const SEND_RETRY_MS = 500; // doubled with each attempt
const RETRY_AFTER_MAX_S = 5; // a longer wait is shown instead, with a button
const ANSWER_MAX_MS = 30_000; // a request that takes longer is given up
const SLOW_BYTES_PER_MS = 50; // of a slow line, which a message with files is given the time for

/** Relative to the page, so that it works below any path it is mounted at. */
export const route = (path, query = {}) => {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) if (value != null) url.searchParams.set(name, value);
  return url.href;
};

/** A request that failed. `status` is 0 when there was no answer; `retryAfter` is in seconds, or null. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "unreachable", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Bytes enough for an id nobody guesses; randomUUID exists on secure origins only, and a phone may be on plain http. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function retryAfterOf(response) {
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds : null;
}

/** Makes an ApiError of an answer that is not 2xx. */
export async function errorOf(response) {
  const retryAfter = retryAfterOf(response);
  const body = await response.json().catch(() => null);
  const said = typeof body?.error === "string" ? body.error : null;
  const code = typeof body?.code === "string" ? body.code : `http_${response.status}`;
  return new ApiError(ACCESS[code] ?? explain(response.status, said, retryAfter), { status: response.status, code, retryAfter });
}

function explain(status, said, retryAfter) {
  const text = said ?? DEFAULTS[status] ?? `The server answered with an error (${status}).`;
  if (retryAfter === null || (status !== 429 && status !== 503)) return text;
  return `${text} Try again in ${retryAfter <= 1 ? "a second" : `${retryAfter} seconds`}.`;
}

// What a person can do about these the server does not know.
const ACCESS = {
  missing_token: "This chat asks for a token. Enter the one you were given, or open the link you were sent.",
  bad_token: "The server does not take this token. Enter the one you were given, or open the link you were sent again.",
  expired_token: "Your access to this chat has expired. Enter a new token to go on where you were.",
};
/** Errors that another token may mend. */
export const ASKS_FOR_TOKEN = new Set([...Object.keys(ACCESS), "forbidden"]);

const DEFAULTS = {
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

  headers(extra = {}) {
    const token = this.token();
    return token ? { ...extra, Authorization: `Bearer ${token}` } : extra;
  }

  tailUrl(offset) {
    return route("api/chat-stream", { id: this.session, offset, live: "sse" });
  }

  /** `{messages, offset, activeRun}` */
  async snapshot() {
    const response = await this.#request("GET", route("api/chat-snapshot", { id: this.session }));
    return response.json();
  }

  /** Posts messages; the same `runId` is carried out once, so a request without an answer is sent again. */
  async send(messages, runId) {
    const headers = { "Content-Type": "application/json", "X-Run-Id": runId };
    const key = this.aiKey();
    if (key) headers["x-api-key"] = key;
    const body = JSON.stringify({ messages });
    for (let attempt = 1; ; attempt++) {
      try {
        const response = await this.#request("POST", route("api/chat", { id: this.session }), { headers, body });
        return response.headers.get("X-Run-Id") ?? runId;
      } catch (error) {
        const later = (error.retryAfter ?? 0) > RETRY_AFTER_MAX_S;
        if (attempt === SEND_ATTEMPTS_MAX || later || (error.status !== 0 && error.status !== 503)) throw error;
        await wait(Math.max(SEND_RETRY_MS * 2 ** (attempt - 1), (error.retryAfter ?? 0) * 1000));
      }
    }
  }

  /** A file of the chat as a blob; null where its address is enough, because there is no token to show. */
  async file(address) {
    return this.token() ? (await this.#request("GET", address)).blob() : null;
  }

  async stop() {
    await this.#request("POST", route("api/chat-stop", { id: this.session }));
  }

  async remove() {
    await this.#request("DELETE", route("api/chat", { id: this.session }));
  }

  async #request(method, url, { headers = {}, body } = {}) {
    const signal = AbortSignal.timeout(ANSWER_MAX_MS + (body?.length ?? 0) / SLOW_BYTES_PER_MS);
    let response;
    try {
      response = await fetch(url, { method, headers: this.headers(headers), body, signal, cache: "no-store" });
    } catch {
      throw new ApiError("The server cannot be reached. Check your connection and try again.");
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }
}
