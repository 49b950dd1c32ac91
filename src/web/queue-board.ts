/**
 * bull-board below /queues: the jobs of the runs that are open, as BullMQ has them, for whoever looks why something stands
 * still. It reads and no more: a job that somebody retried, moved or removed by hand would be missing from its run's counts;
 * `lensmill pause`, `cancel`, `retry` and `resume` are the ways that keep them. Its routes that change something do not exist here.
 */
import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { AppControllerRoute } from '@bull-board/api/typings/app';
import { FastifyAdapter } from '@bull-board/fastify';
import type { Queue } from 'bullmq';
import type { FastifyPluginAsync } from 'fastify';
import { openQueue, type QueueAddress } from '../queue.ts';
import type { Problem } from './api.ts';
import { inTime } from './in-time.ts';
import { Refusal } from './problems.ts';

export const boardPath = '/queues';

/** Redis answers in a millisecond; one that is away is told, and not waited for. */
const patienceMs = 2_000;

/** To be registered at `boardPath`, behind a check of who asks. `answer` makes of what is thrown what is told. */
export const queueBoard =
  (address: QueueAddress, answer: (error: unknown) => Problem): FastifyPluginAsync =>
  async (app) => {
    const queue = openQueue(address);
    const views = new Map<string, Queue>();
    const adapter = new ReadingAdapter(answer);
    adapter.setBasePath(boardPath);
    const board = createBullBoard({
      queues: [],
      serverAdapter: adapter,
      options: {
        uiConfig: {
          boardTitle: 'lensmill queues',
          miscLinks: [{ text: 'lensmill', url: '/' }],
          hideDocsLink: true,
          // Workers take shards of all runs over one connection, which BullMQ would count as none.
          showWorkers: false,
          // It has no completed jobs to count: they leave Redis.
          showMetrics: false,
        },
      },
    });

    /** Runs come and go; what the register names now is what is shown. */
    async function showOpenRuns(): Promise<void> {
      const runs = await inTime(queue.runs(), patienceMs);
      if (!runs) throw new Refusal(503, 'no-redis', `Redis does not answer within ${patienceMs / 1_000} s`);
      for (const [run, view] of views) {
        if (runs.has(run)) continue;
        views.delete(run);
        view.close().catch(() => undefined);
      }
      board.replaceQueues(
        [...runs].sort().map(([run, { state, reason }]) => {
          const view = views.get(run) ?? queue.viewOf(run);
          views.set(run, view);
          return new RunAdapter(run, view, reason === undefined ? state : `${state}: ${reason}`);
        }),
      );
    }

    app.addHook('preHandler', async ({ routeOptions: { url = '' } }) => {
      if (url.startsWith(`${boardPath}/api/`)) await showOpenRuns();
    });
    app.addHook('onClose', () => queue.close());
    await app.register(adapter.registerPlugin());
  };

/** By its run's name; its queue has one of its own. */
class RunAdapter extends BullMQAdapter {
  readonly #run: string;

  constructor(run: string, view: Queue, description: string) {
    super(view, { readOnlyMode: true, description });
    this.#run = run;
  }

  override getName(): string {
    return this.#run;
  }
}

/** Only what reads is routed, and what fails is told as everywhere else. */
class ReadingAdapter extends FastifyAdapter {
  readonly #answer: (error: unknown) => Problem;

  constructor(answer: (error: unknown) => Problem) {
    super();
    this.#answer = answer;
  }

  override setApiRoutes(routes: AppControllerRoute[]): this {
    super.setApiRoutes(routes.filter(({ method }) => [method].flat().every((one) => one === 'get')));
    return this;
  }

  override setErrorHandler(): this {
    super.setErrorHandler((error) => {
      const problem = this.#answer(error);
      // bull-board's own answers differ in form; its page shows any as an error.
      return { status: problem.status as 500, body: { ...problem } };
    });
    return this;
  }
}
