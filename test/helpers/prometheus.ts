/** Debian's Prometheus with our own configuration, and promtool. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { parse, stringify } from 'yaml';
import { freePort } from './redis-servers.ts';
import { tempFolder } from './temp.ts';

export const deployed = join(import.meta.dirname, '../../deploy');
const folder = join(deployed, 'prometheus');

export interface Prometheus {
  /** Of its HTTP API: what stands under `data`. Throws what it complains of. */
  get<T>(path: string, query?: Record<string, string>): Promise<T>;
  close(): Promise<void>;
}

/** deploy/prometheus with other targets, `host:port` by the name of the job, asked each second. Resolves when it answers. */
export async function startPrometheus(targets: Readonly<Record<string, string>>): Promise<Prometheus> {
  const home = tempFolder();
  const config = parse(readFileSync(join(folder, 'prometheus.yml'), 'utf8'));
  config.global = { scrape_interval: '1s', evaluation_interval: '1s' };
  config.rule_files = config.rule_files.map((file: string) => join(folder, file));
  config.scrape_configs = config.scrape_configs.map(({ job_name }: { job_name: string }) => {
    const target = targets[job_name];
    if (target === undefined) throw new Error(`no target for the job ${job_name}`);
    return { job_name, static_configs: [{ targets: [target] }] };
  });
  writeFileSync(join(home, 'prometheus.yml'), stringify(config));
  const address = `127.0.0.1:${await freePort()}`;
  const server = spawn(
    'prometheus',
    [
      `--config.file=${join(home, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(home, 'tsdb')}`,
      `--web.listen-address=${address}`,
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const ended = once(server, 'exit');
  let said = '';
  for await (const line of createInterface({ input: server.stderr })) {
    said += `${line}\n`;
    if (line.includes('Server is ready to receive web requests')) break;
  }
  if (server.exitCode !== null) throw new Error(`prometheus did not start:\n${said}`);
  server.stderr.resume();
  return {
    async get(path, query = {}) {
      const reply = await fetch(`http://${address}/api/v1/${path}?${new URLSearchParams(query)}`);
      const { data, error } = (await reply.json()) as { data: never; error?: string };
      if (error !== undefined) throw new Error(`${error}: ${JSON.stringify(query)}`);
      return data;
    },
    async close() {
      server.kill('SIGTERM');
      await ended;
    },
  };
}

/** Throws with all that promtool says where it is not content. */
export async function promtool(args: readonly string[], input = ''): Promise<string> {
  const { exitCode, stdout, stderr } = await execa('promtool', args, { reject: false, input });
  if (exitCode !== 0) throw new Error(`promtool ${args.join(' ')}:\n${stdout}\n${stderr}`);
  return stdout;
}
