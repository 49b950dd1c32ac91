/** What people see on stderr: log lines, and on a terminal one live progress line below them. */
import { prettyFactory } from 'pino-pretty';

export interface Terminal {
  /** Whether a live line is drawn; elsewhere progress is logged. */
  readonly isLive: boolean;
  /** One JSON log line (or any text), made readable on a terminal. */
  writeLine(line: string): void;
  /** Replaces the live line; `undefined` takes it away. */
  show(text: string | undefined): void;
}

export function openTerminal(stream: NodeJS.WriteStream): Terminal {
  if (!stream.isTTY)
    return { isLive: false, writeLine: (line) => void stream.write(line), show: () => undefined };

  const prettify = prettyFactory({
    colorize: stream.hasColors(),
    translateTime: 'SYS:HH:MM:ss',
    singleLine: true,
  });
  let live = '';
  const draw = (above = ''): void => {
    // Cut to the width: a wrapped line could not be erased.
    stream.write(`\r\x1b[K${above}${live.slice(0, stream.columns - 1)}`);
  };
  return {
    isLive: true,
    writeLine(line) {
      const readable = line.startsWith('{') ? prettify(line) : line;
      draw(readable.endsWith('\n') ? readable : `${readable}\n`);
    },
    show(text = '') {
      live = text;
      draw();
    },
  };
}
