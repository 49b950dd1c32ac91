/**
 * Where the page is: a view and its parameters, all in the URL's hash (`#/search?by=KEY&label=281`), so that a view can be
 * shared, opened in another tab, and left with Back. The server knows nothing of it.
 */
import { createStore } from './store.ts';

export const views = ['search', 'duplicates', 'map', 'runs'] as const;
export type View = (typeof views)[number];

export interface Route {
  view: View;
  params: URLSearchParams;
}

export const route = createStore(readRoute(location.hash));

function readRoute(hash: string): Route {
  const [path = ''] = hash.replace(/^#\/?/, '').split('?');
  const params = new URLSearchParams(hash.includes('?') ? hash.slice(hash.indexOf('?') + 1) : '');
  return { view: views.find((view) => view === path) ?? 'search', params };
}

export function hrefOf({ view, params }: Route): string {
  const query = params.toString();
  return `#/${view}${query ? `?${query}` : ''}`;
}

/** Parameters as they are, but for those named: null takes one away, a list gives it several times. */
export function withParams(
  params: URLSearchParams,
  changes: Record<string, string | readonly string[] | null>,
): URLSearchParams {
  const changed = new URLSearchParams(params);
  for (const [name, value] of Object.entries(changes)) {
    changed.delete(name);
    for (const one of [value ?? []].flat()) if (one !== '') changed.append(name, one);
  }
  return changed;
}

/** Goes there. `replace`: Back shall not return to where we were, as while a slider moves. */
export function go(to: Route, { replace = false } = {}): void {
  if (hrefOf(to) === hrefOf(route.get())) return;
  if (replace) history.replaceState(history.state, '', hrefOf(to));
  else {
    leave();
    history.pushState(null, '', hrefOf(to));
  }
  arrive();
}

/** Where each entry of the history was scrolled to. */
const scrolled = new Map<string, number>();
let entry = '';

function leave(): void {
  scrolled.set(entry, scrollY);
}

function arrive(): void {
  const before = route.get();
  // A new entry has no state yet; Back and Forward bring the one it had.
  const known: unknown = history.state?.entry;
  entry = typeof known === 'string' ? known : newName();
  history.replaceState({ entry }, '');
  route.set(readRoute(location.hash));
  const isSamePage = samePage(before, route.get());
  // After the views have been drawn: preact does so in a microtask.
  if (!isSamePage) requestAnimationFrame(() => scrollTo(0, scrolled.get(entry) ?? 0));
}

/** Like no other that an address or the history may hold. (`crypto.randomUUID` wants https, or this machine.) */
export const newName = (): string => crypto.getRandomValues(new Uint32Array(2)).join('-');

/** A dialog that opens over a page leaves the page where it is. */
function samePage(a: Route, b: Route): boolean {
  const below = ({ view, params }: Route): string =>
    hrefOf({ view, params: withParams(params, { why: null }) });
  return below(a) === below(b);
}

/** Once, at the start. */
export function followHistory(): void {
  history.scrollRestoration = 'manual';
  arrive();
  addEventListener('popstate', () => {
    leave();
    arrive();
  });
}
