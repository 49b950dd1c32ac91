/** Nodes and the workers on them, second by second: what is waited for, and what is paid for. */

export interface NodeFacts {
  /** From asking the cloud for a node until a worker's image runs on it; paid for. */
  nodeSeconds: number;
  /** From a worker's start until its first shard. */
  startSeconds: number;
  /** A worker that is told to stop finishes a shard that is done within it; else the shard goes back. */
  graceSeconds: number;
  /** A node without a worker is kept for so long, and then needs no `nodeSeconds`. */
  lingerSeconds: number;
}

/** What a worker takes: a shard's images, and for how long they keep it. */
export interface Shard {
  seconds: number;
  done(): void;
  back(): void;
}

export interface WorkerPool {
  /** One second with so many replicas; `take` gives the next shard, if there is one. */
  pass(replicas: number, take: () => Shard | undefined): void;
  /** So far, of all nodes. */
  paidSeconds(): number;
  busySeconds(): number;
  nodes(): number;
}

interface Node {
  /** Seconds until its image runs. */
  arriving: number;
  worker?: { starting: number; isLeaving: boolean; shard?: { left: number; shard: Shard } };
  idleSeconds: number;
}

export function openWorkerPool(
  facts: NodeFacts,
  { readyNodes = 0 }: { readyNodes?: number } = {},
): WorkerPool {
  let nodes: Node[] = Array.from({ length: readyNodes }, () => ({ arriving: 0, idleSeconds: 0 }));
  let paid = 0;
  let busy = 0;

  const staying = (): Node[] => nodes.filter(({ worker }) => worker && !worker.isLeaving);

  function grow(): void {
    // A node that is there, else one that is on its way, else a new one.
    const free = nodes
      .filter(({ worker }) => !worker)
      .reduce<Node | undefined>(
        (best, node) => (best && best.arriving <= node.arriving ? best : node),
        undefined,
      );
    const node = free ?? { arriving: facts.nodeSeconds, idleSeconds: 0 };
    if (!free) nodes.push(node);
    node.worker = { starting: facts.startSeconds, isLeaving: false };
  }

  /** As Kubernetes does, whoever is not ready goes first, then whoever came last. */
  function shrink(): void {
    const rank = ({ arriving, worker }: Node): number => arriving + (worker?.starting ?? 0);
    const node = staying().reduce<Node | undefined>(
      (last, one) => (last && rank(last) > rank(one) ? last : one),
      undefined,
    );
    if (!node?.worker) return;
    const { shard } = node.worker;
    if (shard && shard.left <= facts.graceSeconds) {
      node.worker.isLeaving = true;
      return;
    }
    shard?.shard.back();
    delete node.worker;
  }

  function work(node: Node, take: () => Shard | undefined): void {
    const { worker } = node;
    if (!worker) return;
    let seconds = 1;
    const wait = Math.min(seconds, worker.starting);
    worker.starting -= wait;
    seconds -= wait;
    while (seconds > 0) {
      if (!worker.shard) {
        const shard = worker.isLeaving ? undefined : take();
        if (!shard) break;
        worker.shard = { left: shard.seconds, shard };
      }
      const spent = Math.min(seconds, worker.shard.left);
      worker.shard.left -= spent;
      seconds -= spent;
      busy += spent;
      if (worker.shard.left > 0) break;
      worker.shard.shard.done();
      delete worker.shard;
    }
    if (worker.isLeaving && !worker.shard) delete node.worker;
  }

  return {
    pass(replicas, take) {
      for (let n = staying().length; n < replicas; n++) grow();
      for (let n = staying().length; n > replicas; n--) shrink();
      paid += nodes.length;
      for (const node of nodes) {
        if (node.arriving > 0) node.arriving -= 1;
        else work(node, take);
        node.idleSeconds = node.worker || node.arriving > 0 ? 0 : node.idleSeconds + 1;
      }
      nodes = nodes.filter(({ idleSeconds }) => idleSeconds < Math.max(1, facts.lingerSeconds));
    },
    paidSeconds: () => paid,
    busySeconds: () => busy,
    nodes: () => nodes.length,
  };
}
