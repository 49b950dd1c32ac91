/** Questions to the server as components ask them: remembered for a while, given up when outdated, asked again when it is back. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { ProblemError } from './client.ts';

export interface Asked<T> {
  /** The answer; while another is awaited, the last one, so that nothing jumps. */
  value: T | undefined;
  problem: ProblemError | undefined;
  isLoading: boolean;
  retry(): void;
}

/** Answers of late, by question: Back shows at once what was there. */
const answers = new Map<string, unknown>();
const maxAnswers = 200;
const offlineRetryMs = 3_000;

/**
 * Asks whenever `question` changes, and drops the request before; null asks nothing. `ask` must depend on nothing but the
 * question. An answer that is not `isFinal` is not remembered: `retry` asks on.
 */
export function useAsk<T>(
  question: string | null,
  ask: (signal: AbortSignal) => Promise<T>,
  isFinal: (value: T) => boolean = () => true,
): Asked<T> {
  const [round, setRound] = useState(0);
  const [state, setState] = useState<{ question?: string; value?: T; problem?: ProblemError }>({});
  const last = useRef<T | undefined>(undefined);

  useEffect(() => {
    if (question === null || answers.has(question)) return;
    const gone = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    ask(gone.signal).then(
      (value) => {
        if (gone.signal.aborted) return;
        if (isFinal(value)) remember(question, value);
        setState({ question, value });
      },
      (error: unknown) => {
        if (gone.signal.aborted) return;
        const problem = problemFrom(error);
        setState({ question, problem });
        if (problem.code === 'offline') timer = setTimeout(() => setRound((n) => n + 1), offlineRetryMs);
      },
    );
    return () => {
      clearTimeout(timer);
      gone.abort();
    };
  }, [question, round]);

  const current = question !== null && state.question === question ? state : {};
  // Put there under this question, which is always asked the same way.
  const value = question === null ? undefined : (current.value ?? (answers.get(question) as T | undefined));
  if (value !== undefined) last.current = value;
  return {
    value: question === null ? undefined : last.current,
    problem: value === undefined ? current.problem : undefined,
    isLoading: question !== null && value === undefined && current.problem === undefined,
    retry: () => {
      setState({});
      setRound((n) => n + 1);
    },
  };
}

export function problemFrom(error: unknown): ProblemError {
  if (error instanceof ProblemError) return error;
  return new ProblemError({ status: 0, code: 'bug', message: `This is a bug of the page: ${String(error)}` });
}

function remember(question: string, answer: unknown): void {
  answers.delete(question);
  answers.set(question, answer);
  const [oldest] = answers.keys();
  if (answers.size > maxAnswers && oldest !== undefined) answers.delete(oldest);
}

export interface Pages<T> {
  items: readonly T[];
  /** Nothing follows. */
  isEnd: boolean;
  isLoading: boolean;
  problem: ProblemError | undefined;
  /** Asks for the page that follows, or once more for the one that failed. */
  more(): void;
}

interface Book<T> {
  items: readonly T[];
  next: string | null;
}

/** As `useAsk`, of what comes in pages. Of a new question the old items stay until its first page is there. */
export function usePages<T>(
  question: string,
  ask: (after: string | undefined, signal: AbortSignal) => Promise<Book<T>>,
): Pages<T> {
  const [turn, setTurn] = useState(0);
  const [state, setState] = useState<{ question?: string; problem?: ProblemError; isIdle?: boolean }>({});
  const turned = useRef(turn);
  const last = useRef<Book<T> | undefined>(undefined);
  const book = answers.get(question) as Book<T> | undefined; // as in useAsk

  useEffect(() => {
    const isMore = turned.current !== turn;
    turned.current = turn;
    if (book && (!isMore || book.next === null)) return setState({ question, isIdle: true });
    const gone = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    setState({ question });
    ask(book?.next ?? undefined, gone.signal).then(
      ({ items, next }) => {
        if (gone.signal.aborted) return;
        remember(question, { items: [...(book?.items ?? []), ...items], next });
        setState({ question, isIdle: true });
      },
      (error: unknown) => {
        if (gone.signal.aborted) return;
        const problem = problemFrom(error);
        setState({ question, problem, isIdle: true });
        if (problem.code === 'offline') timer = setTimeout(() => setTurn((n) => n + 1), offlineRetryMs);
      },
    );
    return () => {
      clearTimeout(timer);
      gone.abort();
    };
  }, [question, turn]);

  if (book) last.current = book;
  const isCurrent = state.question === question;
  return {
    items: last.current?.items ?? [],
    isEnd: book?.next === null,
    isLoading: !(isCurrent && state.isIdle) && !(book && !isCurrent),
    problem: isCurrent ? state.problem : undefined,
    more: () => setTurn((n) => n + 1),
  };
}

/** After the index has changed, or another token was given. */
export const forgetAnswers = (): void => answers.clear();
