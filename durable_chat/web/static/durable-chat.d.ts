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
  /** Of every request. A function is asked before each one, so that a token may be a fresh one. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Of every request, as `fetch` takes them. */
  credentials?: RequestCredentials;
  /** In place of `fetch`. */
  fetchClient?: typeof fetch;
  /**
   * Who the user is, where the headers do not say so: tabs that say the same share a live read. `false` shares none.
   */
  share?: string | false;
  /** Told when the connection changes its state. */
  onState?: (state: ConnectionState) => void;
}

/** What `send` takes of a run, as TanStack AI gives it. */
export interface RunContext {
  runId?: string;
  headers?: Record<string, string>;
  clientTools?: unknown[];
}

/** A connection for `useChat` and `ChatClient`. */
export interface DurableConnection<Chunk = any, Message = any> {
  /** Chunks, each once and in order, until `signal` is aborted. */
  subscribe(signal?: AbortSignal): AsyncGenerator<Chunk>;
  /** Posts messages until there is an answer or a refusal. Throws `ChatError`. */
  send(messages: Message[], data?: unknown, signal?: AbortSignal, run?: RunContext): Promise<void>;
}

export interface Stoppable {
  /** Ends the running answer, whichever tab asked for it, and gives the ids of the runs that were stopped. */
  stop(options?: { runId?: string }): Promise<string[]>;
}

/** A connection of another kind, such as `durableStreamConnection` gives. */
export interface OtherConnection {
  subscribe: (signal?: AbortSignal, ...rest: any[]) => AsyncIterable<any>;
  send: (...args: any[]) => Promise<unknown>;
}

/** A connection that reads and sends by itself, and lives through cut connections. */
export function durable(options: DurableOptions): DurableConnection & Stoppable;
/** Keeps another connection subscribed; with a `sendUrl` it sends in its place, and can stop. */
export function durable<Other extends OtherConnection>(
  connection: Other,
  options: Partial<DurableOptions> & { sendUrl: string },
): DurableConnection & Stoppable;
export function durable<Other extends OtherConnection>(
  connection: Other,
  options?: Partial<DurableOptions>,
): DurableConnection;

/** A request that failed. */
export class ChatError extends Error {
  /** The server's sentence, null when there was no answer. */
  readonly said: string | null;
  /** The HTTP status, 0 when there was no answer. */
  readonly status: number;
  /** A stable name for programs; `unreachable` when there was no answer. */
  readonly code: string;
  /** Seconds after which the same request may be sent again, where the server says so. */
  readonly retryAfter: number | null;
}

/** An id for a message or a run, which nobody guesses. */
export function newId(): string;

/** Posts until there is an answer or a refusal; with `attempts`, so often at the most. Throws `ChatError`. */
export function post(
  url: string,
  options?: Partial<DurableOptions> & { signal?: AbortSignal; attempts?: number },
  init?: RequestInit,
): Promise<Response>;
