/**
 * Images on one page to look at, send and print: an HTML file that holds all it shows, and asks nobody for anything. It has no
 * script, and its policy allows none, so that whatever an image is called it is but text here.
 */
import { hash } from 'node:crypto';
import type { Thumbnail } from './thumbnail.ts';

export interface ContactSheet {
  title: string;
  /** Short lines below the title. */
  facts: readonly string[];
  /** What nobody may miss. */
  warning?: string | undefined;
  sections: readonly SheetSection[];
}

export interface SheetSection {
  heading?: string;
  cards: readonly SheetCard[];
}

export interface SheetCard {
  /** Or why there is none. */
  picture: Thumbnail | string;
  /** The image's id. */
  name: string;
  /** Linked where a browser can open it. */
  uri?: string | undefined;
  /** At the picture's corner: a rank. */
  mark?: string | undefined;
  /** Of two kinds: 'good' stands out. */
  badge?: { text: string; kind: 'good' | 'plain' } | undefined;
  /** Cosine, -1 to 1. */
  score?: number | undefined;
  label?: string | undefined;
  /** Small print, a line each. */
  details: readonly string[];
}

/** A whole HTML document. */
export function renderSheet({ title, facts, warning, sections }: ContactSheet): string {
  const policy = `default-src 'none'; img-src data:; style-src 'sha256-${hash('sha256', style, 'base64')}'; base-uri 'none'; form-action 'none'`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>${escapeText(title)}</title>
<style>${style}</style>
</head>
<body>
<header>
<h1>${escapeText(title)}</h1>
<ul class="facts">${facts.map((fact) => `<li>${escapeText(fact)}</li>`).join('')}</ul>
${warning === undefined ? '' : `<p class="warning" role="note">${escapeText(warning)}</p>`}
</header>
<main>
${sections.map(renderSection).join('\n')}
</main>
</body>
</html>
`;
}

function renderSection({ heading, cards }: SheetSection): string {
  const title = heading === undefined ? '' : `<h2>${escapeText(heading)}</h2>\n`;
  return `<section>\n${title}<div class="grid">\n${cards.map(renderCard).join('\n')}\n</div>\n</section>`;
}

function renderCard({ picture, name, uri, mark, badge, score, label, details }: SheetCard): string {
  const shown =
    typeof picture === 'string'
      ? `<p class="none">${escapeText(picture)}</p>`
      : `<img src="data:image/webp;base64,${Buffer.from(picture.content).toString('base64')}" width="${picture.width}" height="${picture.height}" alt="${escapeText(label ?? name)}">`;
  const marked = mark === undefined ? '' : `<span class="mark">${escapeText(mark)}</span>`;
  const badged = badge ? `<span class="badge ${badge.kind}">${escapeText(badge.text)}</span>` : '';
  const isLinked = uri !== undefined && /^(https?|file):\/\/[^!]*$/.test(uri);
  const named = isLinked ? `<a href="${escapeText(uri)}">${escapeText(name)}</a>` : escapeText(name);
  const lines = [
    ...(score === undefined ? [] : [renderScore(score)]),
    ...(label === undefined ? [] : [`<p class="label">${escapeText(label)}</p>`]),
    `<p class="name" title="${escapeText(uri ?? name)}">${named}</p>`,
    ...(details.length === 0 ? [] : [`<p class="details">${details.map(escapeText).join('<br>')}</p>`]),
  ];
  return `<figure>\n<div class="picture">${shown}${marked}${badged}</div>\n<figcaption>${lines.join('')}</figcaption>\n</figure>`;
}

/** A number, and a bar that is as long. A policy without inline styles leaves SVG to draw it. */
function renderScore(score: number): string {
  const width = Math.max(0, Math.min(1, score)) * 100;
  const bar = `<svg viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="3"/><rect class="fill" width="${width.toFixed(1)}" height="3"/></svg>`;
  return `<p class="score"><b>${score.toFixed(4)}</b>${bar}</p>`;
}

/** For text and for attributes in double quotes. Controls, which HTML cannot hold, become U+FFFD. */
function escapeText(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;')
    .replaceAll(/[\p{Cc}\p{Cs}]/gu, '\uFFFD');
}

const style = `
:root {
  --page: #f6f6f4; --card: #fff; --ink: #1b1c1e; --soft: #5d6166; --line: #e2e2de; --mat: #ecece8;
  --accent: #0b6e4f; --track: #dcdcd6; --warn: #7a4b00; --warn-page: #fff3d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --card: #1d1f22; --ink: #ececea; --soft: #a2a7ad; --line: #2c2f33; --mat: #0c0d0e;
    --accent: #58c79a; --track: #34383d; --warn: #ffd48a; --warn-page: #3a2b0c;
  }
}
* { box-sizing: border-box; margin: 0; }
body { background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; padding: clamp(16px, 3vw, 40px); }
header, main { max-width: 1600px; margin: 0 auto; }
h1 { font-size: clamp(1.3rem, 2.5vw, 1.9rem); line-height: 1.2; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 36px 0 12px; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 0; margin: 10px 0 28px; list-style: none; color: var(--soft); font-size: .87rem; }
.facts li { overflow-wrap: anywhere; }
.warning { margin: 0 0 24px; padding: 10px 14px; border-radius: 8px; background: var(--warn-page); color: var(--warn); font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(190px, 44vw), 1fr)); gap: clamp(10px, 1.4vw, 20px); }
figure { display: flex; flex-direction: column; min-width: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
figure:has(.good) { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
.picture { position: relative; aspect-ratio: 1; display: grid; place-items: center; background: var(--mat); }
.picture img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.none { padding: 16px; color: var(--soft); font-size: .8rem; text-align: center; overflow-wrap: anywhere; }
.mark, .badge { position: absolute; top: 8px; padding: 1px 8px; border-radius: 99px; font-size: .75rem; font-weight: 600; background: rgb(0 0 0 / .62); color: #fff; }
.mark { left: 8px; font-variant-numeric: tabular-nums; }
.badge { right: 8px; }
.badge.good { background: #0b6e4f; }
figcaption { padding: 10px 12px 12px; font-size: .84rem; }
.score { display: flex; align-items: center; gap: 10px; font-variant-numeric: tabular-nums; margin-bottom: 4px; }
.score svg { flex: 1; height: 3px; border-radius: 2px; }
.track { fill: var(--track); } .fill { fill: var(--accent); }
.label { font-weight: 600; overflow-wrap: anywhere; }
.name { overflow-wrap: anywhere; }
.name a { color: inherit; text-decoration-color: var(--track); text-underline-offset: 3px; }
.details { color: var(--soft); font-size: .76rem; margin-top: 4px; overflow-wrap: anywhere; }
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --mat: #fff; --track: #ddd; --accent: #000; --warn: #000; --warn-page: #fff; }
  @page { margin: 12mm; }
  body { padding: 0; font-size: 9pt; }
  .grid { grid-template-columns: repeat(4, 1fr); gap: 4mm; }
  .warning { border: 1pt solid #000; }
  figure, h2 { break-inside: avoid; }
  h2 { break-after: avoid; }
  * { print-color-adjust: exact; }
}
`;
