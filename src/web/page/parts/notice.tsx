/** What there is to say: a problem with its way out, a notice with a command, an empty place. */
import type { ComponentChildren } from 'preact';
import type { ProblemError } from '../client.ts';
import { Icon, type IconName } from './icon.tsx';

/** Shown where it happened, in the server's words. */
export function ProblemNotice({
  problem,
  retry,
}: {
  problem: ProblemError;
  retry?: (() => void) | undefined;
}) {
  return (
    <div class="notice notice-problem" role="alert" data-code={problem.code}>
      <Icon name="warning" />
      <p>
        <Words text={problem.message} />
      </p>
      {retry && (
        <button type="button" class="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

/** A message of the server: what stands in backticks is typed, a command can be copied. */
export function Words({ text }: { text: string }) {
  return (
    <>
      {text.split('`').map((words, at) => {
        if (at % 2 === 0) return words;
        return words.startsWith('lensmill ') ? (
          <CommandLine key={at} text={words} />
        ) : (
          <code key={at}>{words}</code>
        );
      })}
    </>
  );
}

export function Notice({
  children,
  tone = 'plain',
}: {
  children: ComponentChildren;
  tone?: 'plain' | 'warning';
}) {
  return (
    <div class={`notice notice-${tone}`} role="note">
      {tone === 'warning' && <Icon name="warning" />}
      <p>{children}</p>
    </div>
  );
}

export function Empty({
  icon,
  title,
  level: Title = 'h2',
  children,
}: {
  icon: IconName;
  title: string;
  /** 'h1' where the view has no other title. */
  level?: 'h1' | 'h2';
  children?: ComponentChildren;
}) {
  return (
    <div class="empty">
      <Icon name={icon} />
      <Title>{title}</Title>
      <div class="empty-text">{children}</div>
    </div>
  );
}

/** A command to type, with a button that copies it. */
export function CommandLine({ text }: { text: string }) {
  return (
    <span class="command">
      <code>{text}</code>
      {/* Only where the page is served over https, or from this machine. */}
      {navigator.clipboard && (
        <button type="button" class="command-copy" onClick={() => navigator.clipboard.writeText(text)}>
          Copy
        </button>
      )}
    </span>
  );
}
