/** Asks for the token that `lensmill serve` printed. */
import { useState } from 'preact/hooks';
import { forgetAnswers, problemFrom } from '../ask.ts';
import { openSession, type ProblemError } from '../client.ts';
import { ProblemNotice } from './notice.tsx';

export function TokenForm({ problem: first }: { problem: ProblemError | undefined }) {
  const [problem, setProblem] = useState(first);
  const [isSent, setSent] = useState(false);
  return (
    <form
      class="token"
      onSubmit={async (event) => {
        event.preventDefault();
        setSent(true);
        const token = new FormData(event.currentTarget).get('token');
        try {
          await openSession(String(token).trim());
          forgetAnswers();
        } catch (error) {
          setProblem(problemFrom(error));
          setSent(false);
        }
      }}
    >
      <h1>This archive asks for its token</h1>
      <p>
        <code>lensmill serve</code> printed an address with the token in it. Open that address, or type the
        token here.
      </p>
      {problem && <ProblemNotice problem={problem} />}
      <div class="field">
        <label for="token">Token</label>
        <input id="token" name="token" type="password" autocomplete="current-password" required />
      </div>
      <button type="submit" class="button button-main" disabled={isSent}>
        Open
      </button>
    </form>
  );
}
