// Types of /durable-chat.js. Copy this file beside the module, or declare the module with it:
//
//   declare module "https://chat.example/durable-chat.js" { export * from "./durable-chat.js"; }

/** Where the connection stands. */
export type ConnectionState = "connecting" | "live" | "reconnecting" | "offline" | "closed";

export interface DurableOptions {
  /** Where turns are posted: `/api/chat?id=S`. */
  sendUrl: string;
  /** Where the session is read. Default: `sendUrl` with `/chat-stream` in place of `/chat`. */
  readUrl?: string;
  /** Where answers are stopped. Default: `sendUrl` with `/chat-stop` in place of `/chat`. */
  stopUrl?: string;
  /** Where to read from: the offset of the snapshot that was rendered. */
  initialOffset?: string;
  /** Headers for every request. A function is called before each request, so that it can return a new token. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Credentials for every request, as in `fetch`. */
  credentials?: RequestCredentials;
  /** A replacement for `fetch`. */
  fetchClient?: typeof fetch;
  /**
   * The user's identity, if the headers do not identify it. Tabs with the same value share a live read. `false` disables
   * sharing.
   */
  share?: string | false;
  /** Called when the connection changes its state. */
  onState?: (state: ConnectionState) => void;
}

/** The run that TanStack AI passes to `send`. */
export interface RunContext {
  runId?: string;
  headers?: Record<string, string>;
  clientTools?: unknown[];
}

/** A connection for `useChat` and `ChatClient`. */
export interface DurableConnection<Chunk = any, Message = any> {
  /** Chunks, each once and in order, until `signal` is aborted. */
  subscribe(signal?: AbortSignal): AsyncGenerator<Chunk>;
  /** Posts messages, with retries, until there is a response. Throws `ChatError`. */
  send(messages: Message[], data?: unknown, signal?: AbortSignal, run?: RunContext): Promise<void>;
}

export interface Stoppable {
  /** Ends the running answer, whichever tab asked for it, and returns the ids of the stopped runs. */
  stop(options?: { runId?: string }): Promise<string[]>;
}

/** A connection of another kind, such as that of `durableStreamConnection`. */
export interface OtherConnection {
  subscribe: (signal?: AbortSignal, ...rest: any[]) => AsyncIterable<any>;
  send: (...args: any[]) => Promise<unknown>;
}

/** Creates a connection that reads and sends itself, and survives lost connections. */
export function durable(options: DurableOptions): DurableConnection & Stoppable;
/** Keeps another connection subscribed. With a `sendUrl`, it sends in its place and can stop answers. */
export function durable<Other extends OtherConnection>(
  connection: Other,
  options: Partial<DurableOptions> & { sendUrl: string },
): DurableConnection & Stoppable;
export function durable<Other extends OtherConnection>(
  connection: Other,
  options?: Partial<DurableOptions>,
): DurableConnection;

/** A connection whose response is the answer, such as that of `fetchServerSentEvents`. */
export interface RequestConnection {
  connect: (...args: any[]) => AsyncIterable<any>;
}

export interface RequestOptions {
  /** Where answers are stopped. Default: `/api/chat-stop`. */
  stopUrl?: string;
  /** The session until the first message is sent. Default: the `threadId` of `useChat`. */
  threadId?: string;
  /** Whether the chat's own `stop()` stops the answer. An unmounted component stops it then, too. Default: false. */
  stopOnAbort?: boolean;
  headers?: DurableOptions["headers"];
  credentials?: RequestCredentials;
  fetchClient?: typeof fetch;
}

/** Gives a request-scoped connection a `stop` that ends the answer on the server. */
export function durableRequest<Other extends RequestConnection>(connection: Other, options?: RequestOptions): Other & Stoppable;

export interface AiSdkOptions {
  /** The routes of the AI SDK. Default: `/api/ai-sdk`. */
  api?: string;
  /** The response of `/api/ai-sdk/{id}/messages` with which the page begins. Its running answer is resumed. */
  loaded?: { activeRun: { runId: string } | null; offset: string };
  /** Headers for every request. A function is called before each request, so that it can return a new token. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Credentials for every request, as in `fetch`. */
  credentials?: RequestCredentials;
  /** A replacement for `fetch`. */
  fetchClient?: typeof fetch;
  /** Fields to add to each posted body. */
  body?: object;
  /** Whether `stop()` of the chat also ends the answer on the server. SDK 7 also calls it when a component is unmounted. */
  stopOnAbort?: boolean;
  /** Called when the connection changes its state. */
  onState?: (state: ConnectionState) => void;
}

/** A transport for `useChat` and `Chat` of the AI SDK. */
export interface AiSdkTransport {
  sendMessages(options: any): Promise<ReadableStream<any>>;
  reconnectToStream(options: any): Promise<ReadableStream<any> | null>;
  readonly resumeStreamIsReplay: true;
  /** Ends the running answer, whichever tab asked for it, and returns the ids of the stopped runs. */
  stop(options: { chatId: string; runId?: string }): Promise<string[]>;
}

/** Creates a transport for the AI SDK that survives lost connections, restarts and expired tokens. */
export function aiSdkTransport(options?: AiSdkOptions): AiSdkTransport;

/** A failed request. */
export class ChatError extends Error {
  /** The server's message; null without a response. */
  readonly said: string | null;
  /** The HTTP status; 0 without a response. */
  readonly status: number;
  /** A stable name for programs; `unreachable` without a response. */
  readonly code: string;
  /** Seconds after which the same request may be retried, if the server says so. */
  readonly retryAfter: number | null;
}

/** Returns a random id for a message or a run. */
export function newId(): string;

/** Posts, with retries, until there is a response; at most `attempts` times if given. Throws `ChatError`. */
export function post(
  url: string,
  options?: Partial<DurableOptions> & { signal?: AbortSignal; attempts?: number },
  init?: RequestInit,
): Promise<Response>;
