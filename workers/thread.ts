/**
 * A thread with state, spoken to by call and reply. (Pools such as piscina hand tasks to any thread; a lane and the
 * inference thread are each opened once, hold a session or clients, and must be let end by themselves: `terminate()` in
 * the middle of a model run aborts the process.)
 */
import '../src/no-telemetry.ts';
import { type ChildProcess, type ForkOptions, fork } from 'node:child_process';
import { MessageChannel, type MessagePort, parentPort, Worker } from 'node:worker_threads';
import { ConfigError } from '../src/errors.ts';
import { shareLoaders } from '../src/pixels/loaders.ts';

export interface Thread<Request, Reply> {
  /** Rejects when the thread ends before `close`. */
  lost: Promise<never>;
  /** Rejects with what the thread's handler threw, or when the thread is lost. */
  call(request: Request): Promise<Reply>;
  /** Hands it one end of a channel to another thread: see `serveThread`. */
  connect(port: MessagePort): void;
  /** For how long it ran JavaScript, or was blocked by what that called, since it began. */
  activeMs(): number;
  /** Lets the calls under way end, then the thread. Safe to call twice. */
  close(): Promise<void>;
}

interface CallMessage<Request> {
  id: number;
  request: Request;
}

interface PortMessage {
  port: MessagePort;
}

type ReplyMessage<Reply> = { id: number } & ({ reply: Reply } | { error: PortableError });

/** Structured cloning keeps neither the class nor the code of an error. */
interface PortableError {
  message: string;
  code?: string;
}

type ThreadName = 'lane' | 'inference' | 'writer' | 'projection';

/** `workerData` is what the thread is opened with. */
export function openThread<Request, Reply>(name: ThreadName, workerData: unknown): Thread<Request, Reply> {
  shareLoaders();
  // A thread takes over the flags of its process, also those that go with no file.
  const isText = flagsForFiles(process.execArgv).length < process.execArgv.length;
  const worker = new Worker(entryOf(name), { workerData, name, ...(isText && { execArgv: [] }) });
  const calls = openCalls<Request, Reply>(worker);
  let lost: Error | undefined;
  let closing = false;
  const loss = Promise.withResolvers<never>();
  loss.promise.catch(() => undefined);

  const exited = new Promise<void>((resolve) => {
    const end = (error: Error): void => {
      lost ??= error;
      if (!closing) loss.reject(lost);
      calls.fail(lost);
    };
    worker.on('error', end);
    worker.on('exit', (code) => {
      end(new Error(`the ${name} thread ended (code ${code})`));
      resolve();
    });
  });

  return {
    lost: loss.promise,
    call: (request) => (lost ? Promise.reject(lost) : calls.call(request)),
    connect: (port) => worker.postMessage({ port } satisfies PortMessage, [port]),
    activeMs: () => worker.performance.eventLoopUtilization().active,
    async close() {
      closing = true;
      if (!lost) worker.postMessage(null);
      await exited;
    },
  };
}

interface Calls<Request, Reply> {
  call(request: Request): Promise<Reply>;
  /** Those under way. */
  fail(error: Error): void;
}

function openCalls<Request, Reply>(port: Worker | MessagePort): Calls<Request, Reply> {
  const waiting = new Map<number, PromiseWithResolvers<Reply>>();
  let calls = 0;
  port.on('message', (message: ReplyMessage<Reply>) => {
    const call = waiting.get(message.id);
    waiting.delete(message.id);
    if ('error' in message) call?.reject(errorOf(message.error));
    else call?.resolve(message.reply);
  });
  return {
    call(request) {
      const call = Promise.withResolvers<Reply>();
      const id = calls++;
      waiting.set(id, call);
      port.postMessage({ id, request } satisfies CallMessage<Request>);
      return call.promise;
    },
    fail(error) {
      for (const call of waiting.values()) call.reject(error);
      waiting.clear();
    },
  };
}

export interface Threads<Request, Reply> {
  /** Rejects when one of them ends before `close`. */
  lost: Promise<never>;
  /**
   * To the one with the fewest calls under way. When `signal` aborts, the same thread is sent `abandon`; a call that fails after
   * that rejects with the signal's reason, for how it failed is the thread's own affair.
   */
  callOne(request: Request, abort?: { signal: AbortSignal; abandon: Request }): Promise<Reply>;
  callAll(request: Request): Promise<Reply[]>;
  /** Lets each of these threads call each of those. These must be closed first. */
  connectTo<OtherRequest, OtherReply>(others: Threads<OtherRequest, OtherReply>): void;
  connect(port: MessagePort, member: number): void;
  readonly count: number;
  /** As of one thread, on average. */
  activeMs(): number;
  close(): Promise<void>;
}

/** Several threads of one kind, opened alike. */
export function openThreads<Request, Reply>(
  name: ThreadName,
  count: number,
  workerData: unknown,
): Threads<Request, Reply> {
  const members = Array.from({ length: count }, () => ({
    thread: openThread<Request, Reply>(name, workerData),
    calls: 0,
  }));
  const lost = Promise.race(members.map(({ thread }) => thread.lost));
  lost.catch(() => undefined); // whoever waits for it hears of it
  return {
    lost,
    async callOne(request, abort) {
      const member = members.reduce((least, other) => (other.calls < least.calls ? other : least));
      const onAbort = (): void => {
        // What it was asked for tells how it went.
        if (abort) member.thread.call(abort.abandon).catch(() => undefined);
      };
      abort?.signal.addEventListener('abort', onAbort);
      member.calls += 1;
      try {
        return await member.thread.call(request);
      } catch (error) {
        abort?.signal.throwIfAborted();
        throw error;
      } finally {
        member.calls -= 1;
        abort?.signal.removeEventListener('abort', onAbort);
      }
    },
    callAll: (request) => Promise.all(members.map(({ thread }) => thread.call(request))),
    connectTo(others) {
      for (const { thread } of members) {
        for (let other = 0; other < others.count; other++) {
          const { port1, port2 } = new MessageChannel();
          others.connect(port2, other);
          thread.connect(port1);
        }
      }
    },
    connect: (port, member) => members[member]?.thread.connect(port),
    count,
    activeMs: () => members.reduce((sum, { thread }) => sum + thread.activeMs(), 0) / members.length,
    async close() {
      await Promise.all(members.map(({ thread }) => thread.close()));
    },
  };
}

/**
 * The thread's side: answers calls until the other side closes, then lets go of what it holds and ends. A channel to another
 * thread goes to `onPort`, for calls to that; or, without one, brings more calls.
 */
export function serveThread<Request, Reply>(
  handle: (request: Request) => Promise<Reply>,
  release: () => Promise<void>,
  onPort?: (port: MessagePort) => void,
): void {
  if (!parentPort) throw new Error('this file is a thread, started by openThread');
  const ports = [parentPort];
  const underWay = new Set<Promise<void>>();
  serve(parentPort);

  function serve(port: MessagePort): void {
    port.on('message', (message: CallMessage<Request> | PortMessage | null) => {
      if (message === null) close();
      else if ('request' in message) answer(port, message);
      else {
        ports.push(message.port);
        if (onPort) onPort(message.port);
        else serve(message.port);
      }
    });
  }

  function answer(port: MessagePort, { id, request }: CallMessage<Request>): void {
    const answered = handle(request)
      .then(
        (reply): ReplyMessage<Reply> => ({ id, reply }),
        (error): ReplyMessage<Reply> => ({ id, error: portableOf(error) }),
      )
      .then((message) => port.postMessage(message));
    underWay.add(answered);
    void answered.finally(() => underWay.delete(answered));
  }

  function close(): void {
    void Promise.all(underWay)
      .then(release)
      .finally(() => {
        for (const port of ports) port.close();
      });
  }
}

/** Calls to a thread that a channel leads to. */
export function callOver<Request, Reply>(port: MessagePort): (request: Request) => Promise<Reply> {
  return openCalls<Request, Reply>(port).call;
}

type ProcessName = 'worker' | 'decoder' | 'indexer';

/** A process of ours, with the flags of this one. */
export function forkEntry(name: ProcessName, options: ForkOptions): ChildProcess {
  return fork(entryOf(name), { ...options, execArgv: flagsForFiles(process.execArgv) });
}

const textFlags = ['-e', '--eval', '-p', '--print', '-pe', '--input-type'];

/** Flags of Node, without those of a program that is given as text (`node --input-type=module -e …`): they go with no file. */
export function flagsForFiles(flags: readonly string[]): string[] {
  const isOfText = (flag = ''): boolean => textFlags.includes(flag);
  return flags.filter(
    (flag, at) => !isOfText(flag) && !isOfText(flags[at - 1]) && !/^--(input-type|eval|print)=/.test(flag),
  );
}

/** This file's neighbours are .ts when run from source and .js when built. */
function entryOf(name: ThreadName | ProcessName): URL {
  return new URL(`./${name}${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url);
}

export function portableOf(error: unknown): PortableError {
  if (error instanceof ConfigError) return { message: error.message, code: error.code };
  return { message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}

export function errorOf({ message, code }: PortableError): Error {
  return code === undefined ? new Error(message) : new ConfigError(code, message);
}
