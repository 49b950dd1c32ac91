/** The `lensmill` command. */
import { Command } from 'commander';
import { errnoOf } from '../errno.ts';
import { version } from '../version.ts';
import { exitCodes, exitMeanings } from './command.ts';
import { addCommands } from './commands.ts';

// `npm run` stands in the project's folder; paths are relative to where the user stands.
const { npm_lifecycle_event: script, INIT_CWD: userFolder } = process.env;
if ((script === 'lensmill' || script === 'demo') && userFolder) process.chdir(userFolder);

// `lensmill … | head` is no failure.
process.stdout.on('error', (error) => {
  if (errnoOf(error) !== 'EPIPE') throw error;
  process.exit();
});
// That nobody reads the log any more ends no work.
process.stderr.on('error', (error) => {
  if (errnoOf(error) !== 'EPIPE') throw error;
});

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
Exit codes:
${Object.entries(exitCodes)
  .map(([how, code]) => `  ${String(code).padStart(3)}  ${exitMeanings[how as keyof typeof exitCodes]}`) // its own keys
  .join('\n')}
Settings come from flags, else the environment, else lensmill.yaml; \`lensmill doctor\` shows them all.`,
  );

await addCommands(program, process.argv[2]);
await program.parseAsync();
