/** Starts the page: takes the token out of the address, then draws. */
import { render } from 'preact';
import { App } from './app.tsx';
import { problemFrom } from './ask.ts';
import { openSession, type ProblemError, session } from './client.ts';
import { followHistory } from './route.ts';
import './styles/tokens.css';
import './styles/base.css';
import './styles/shell.css';
import './styles/search.css';
import './styles/grid.css';
import './styles/why.css';
import './styles/duplicates.css';
import './styles/map.css';
import './styles/runs.css';
import { applyTheme } from './theme.ts';

applyTheme();
const problem = await takeToken();
followHistory();
const place = document.getElementById('page');
if (place) render(<App problem={problem} />, place);
// Opened in a tab that has the page already, such an address is but another hash.
addEventListener('hashchange', () => tokenIn(location.hash) && location.reload());

/** `#token=…` becomes a cookie, and is gone from the address bar and the history before anything else is asked for. */
async function takeToken(): Promise<ProblemError | undefined> {
  const token = tokenIn(location.hash);
  if (!token) return undefined;
  history.replaceState(null, '', location.pathname);
  try {
    await openSession(decodeURIComponent(token));
    return undefined;
  } catch (error) {
    session.set('wanted');
    return problemFrom(error);
  }
}

function tokenIn(hash: string): string | undefined {
  return /^#token=(.+)$/.exec(hash)?.[1];
}
