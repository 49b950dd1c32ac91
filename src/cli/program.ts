/**
 * The `lensmill` command: its parts, and which of them is asked for. A command's module is loaded when it is: all of them
 * take a second of a core, one a third of that.
 */
import { Command } from 'commander';
import { errnoOf } from '../errno.ts';
import { version } from '../version.ts';
import { exitCodes } from './command.ts';

// `npm run` stands in the project's folder; paths are relative to where the user stands.
const { npm_lifecycle_event: script, INIT_CWD: userFolder } = process.env;
if ((script === 'lensmill' || script === 'demo') && userFolder) process.chdir(userFolder);

// `lensmill … | head` is no failure.
process.stdout.on('error', (error) => {
  if (errnoOf(error) !== 'EPIPE') throw error;
  process.exit();
});

/** In the order of `--help`. */
const commands: Record<string, () => Promise<(program: Command) => void>> = {
  index: async () => (await import('./index.ts')).addIndexCommand,
  enqueue: async () => (await import('./enqueue.ts')).addEnqueueCommand,
  work: async () => (await import('./work.ts')).addWorkCommand,
  status: async () => (await import('./status.ts')).addStatusCommand,
  resume: async () => (await import('./resume.ts')).addResumeCommand,
  pause: async () => (await import('./pause.ts')).addPauseCommand,
  cancel: async () => (await import('./pause.ts')).addCancelCommand,
  retry: async () => (await import('./retry.ts')).addRetryCommand,
  verify: async () => (await import('./verify.ts')).addVerifyCommand,
  certify: async () => (await import('./certify.ts')).addCertifyCommand,
  export: async () => (await import('./export.ts')).addExportCommand,
  get: async () => (await import('./get.ts')).addGetCommand,
  model: async () => (await import('./model.ts')).addModelCommands,
  tune: async () => (await import('./tune.ts')).addTuneCommand,
  doctor: async () => (await import('./doctor.ts')).addDoctorCommand,
  demo: async () => (await import('./demo.ts')).addDemoCommand,
};

const program = new Command('lensmill')
  .description(
    'Index large image archives: per image, its ImageNet predictions and its 2048-d embedding, exactly once.',
  )
  .version(version)
  .showHelpAfterError('(see --help)')
  .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? exitCodes.done : exitCodes.config))
  .addHelpText(
    'after',
    `
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 done with failed images, 4 stopped and resumable, 130 interrupted.
Settings come from flags, else the environment, else lensmill.yaml; \`lensmill doctor\` shows them all.`,
  );

const [asked = ''] = process.argv.slice(2);
const wanted = Object.hasOwn(commands, asked) ? [asked] : Object.keys(commands);
for (const name of wanted) (await commands[name]?.())?.(program);

await program.parseAsync();
