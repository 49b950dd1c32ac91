/** The commands, and which of them is asked for: a module each, loaded when it is. All take a second of a core, one a third. */
import type { Command } from 'commander';

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
  probe: async () => (await import('./probe.ts')).addProbeCommands,
  export: async () => (await import('./export.ts')).addExportCommand,
  search: async () => (await import('./search.ts')).addSearchCommand,
  duplicates: async () => (await import('./duplicates.ts')).addDuplicatesCommand,
  serve: async () => (await import('./serve.ts')).addServeCommand,
  'build-index': async () => (await import('./build-index.ts')).addBuildIndexCommand,
  get: async () => (await import('./get.ts')).addGetCommand,
  model: async () => (await import('./model.ts')).addModelCommands,
  tune: async () => (await import('./tune.ts')).addTuneCommand,
  doctor: async () => (await import('./doctor.ts')).addDoctorCommand,
  demo: async () => (await import('./demo.ts')).addDemoCommand,
};

/** Adds the command of that name, or all where there is none: for `--help`, and to tell what was meant. */
export async function addCommands(program: Command, asked = ''): Promise<void> {
  const names = Object.hasOwn(commands, asked) ? [asked] : Object.keys(commands);
  for (const name of names) (await commands[name]?.())?.(program);
}
