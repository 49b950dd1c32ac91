/** Labels of a picture, or stages of a run, as bars. */
export interface Bar {
  name: string;
  /** 0 to 1. */
  share: number;
  text: string;
  /** Drawn in the accent's colour. */
  marked?: boolean;
}

export function Bars({ bars, label }: { bars: readonly Bar[]; label: string }) {
  return (
    <ul class="bars" aria-label={label}>
      {bars.map(({ name, share, text, marked }) => (
        <li key={name} class={marked ? 'bar bar-marked' : 'bar'}>
          <span class="bar-name">{name}</span>
          <span class="bar-text">{text}</span>
          <span class="bar-track">
            <span class="bar-fill" style={{ width: `${Math.min(1, Math.max(0, share)) * 100}%` }} />
          </span>
        </li>
      ))}
    </ul>
  );
}
