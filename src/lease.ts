/**
 * A worker's right to a shard, by its own clock.
 *
 * The lock in Redis tells others when a shard may be taken from us. A worker that was stopped, or that Redis does not
 * answer, hears nothing of that, so it keeps a deadline of its own: a renewal counts from the moment at which it was sent,
 * and the lease therefore ends before the lock can. The clock is the monotonic one: nobody sets it, and it goes on while the
 * process is stopped.
 */

/** What a step needs of a lease. */
export interface Lease {
  /** Aborts when the lease ends, with the reason. */
  readonly signal: AbortSignal;
  /** Throws the reason where the lease has ended, even before its timer had a chance to say so. */
  check(): void;
}

/** Why a shard was dropped: another worker may have it by now. */
export class LeaseLost extends Error {
  override name = 'LeaseLost';
}

/** A lease as its holder sees it. */
export interface HeldLease extends Lease {
  /** The lock was renewed by a request sent at this moment of `performance.now()`. */
  renewed(sentAt: number): void;
  /** Ends the lease now. */
  end(reason: Error): void;
  /** The shard is done: the lease ends without a sound. */
  close(): void;
}

export function openLease(durationMs: number, takenAt: number): HeldLease {
  const controller = new AbortController();
  let until = takenAt + durationMs;
  let timer = setTimeout(expire, until - performance.now());

  function expire(): void {
    const leftMs = until - performance.now();
    if (leftMs > 0) timer = setTimeout(expire, leftMs);
    else end(new LeaseLost(`the lock was not renewed for ${durationMs / 1000} s`));
  }

  function end(reason: Error): void {
    clearTimeout(timer);
    controller.abort(reason); // only the first reason counts
  }

  return {
    signal: controller.signal,
    check() {
      if (performance.now() >= until) expire();
      controller.signal.throwIfAborted();
    },
    renewed(sentAt) {
      until = Math.max(until, sentAt + durationMs);
    },
    end,
    close: () => clearTimeout(timer),
  };
}
