/** Icons of 20 × 20, drawn in the text's colour. They say nothing to a screen reader: what holds them has a name. */
const paths = {
  search: 'M9 15A6 6 0 1 0 9 3a6 6 0 0 0 0 12zM13.5 13.5 17 17',
  copies: 'M7 7h10v10H7zM3 13V3h10',
  map: 'M5 6h.01M9 13h.01M14 5h.01M15 14h.01M11 9h.01M4 15h.01',
  runs: 'M3 16h3l3-9 3 6 2-4h3',
  sun: 'M10 13a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM10 2v2M10 16v2M2 10h2M16 10h2M4.3 4.3l1.4 1.4M14.3 14.3l1.4 1.4M4.3 15.7l1.4-1.4M14.3 5.7l1.4-1.4',
  moon: 'M16 11.5A6.5 6.5 0 0 1 8.5 4 6.5 6.5 0 1 0 16 11.5z',
  help: 'M7.5 7.5a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1.9-1.1 1.8M10 14.5h.01',
  close: 'M5 5l10 10M15 5 5 15',
  plus: 'M10 4v12M4 10h12',
  minus: 'M4 10h12',
  compare: 'M3 4h6v12H3zM11 4h6v12h-6z',
  filter: 'M3 5h14M6 10h8M8.5 15h3',
  picture: 'M3 4h14v12H3zM3 13l4-4 4 4 2-2 4 4',
  check: 'M4 10.5 8 14.5 16 6',
  warning: 'M10 3 18 17H2zM10 8v4M10 14.5h.01',
  fit: 'M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4',
} as const;

export type IconName = keyof typeof paths;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg
      class="icon"
      viewBox="0 0 20 20"
      width="20"
      height="20"
      fill="none"
      stroke="currentColor"
      stroke-width={name === 'map' ? 2.6 : 1.6}
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      <path d={paths[name]} />
    </svg>
  );
}
