/** Light or dark: what the system wants, unless it was chosen here. */
import { createStore } from './store.ts';

export type Theme = 'light' | 'dark';

const system = matchMedia('(prefers-color-scheme: dark)');
const place = 'lensmill-theme';

export const theme = createStore<Theme>(themeNow());

function themeNow(): Theme {
  const chosen = localStorage.getItem(place);
  if (chosen === 'light' || chosen === 'dark') return chosen;
  return system.matches ? 'dark' : 'light';
}

export function toggleTheme(): void {
  localStorage.setItem(place, theme.get() === 'dark' ? 'light' : 'dark');
  applyTheme();
}

/** Colours follow `color-scheme`: styles/tokens.css names each in both. */
export function applyTheme(): void {
  theme.set(themeNow());
  document.documentElement.style.colorScheme = theme.get();
}

system.addEventListener('change', applyTheme);
