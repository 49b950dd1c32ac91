/** Images a second over the time that the page is open. */
import { useEffect, useRef } from 'preact/hooks';
import type uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { rate } from '../format.ts';
import type { SpeedHistory } from '../live-runs.ts';
import { useStore } from '../store.ts';
import { theme } from '../theme.ts';

const height = 160;

export function SpeedPlot({ history: { times, rates } }: { history: SpeedHistory }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const shown = useStore(theme);

  useEffect(() => {
    const parent = place.current;
    if (!parent) return undefined;
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: parent.clientWidth, height }));
    let isGone = false;
    // Half of the page's script, and only this needs it.
    import('uplot').then(({ default: UPlot }) => {
      if (isGone) return;
      plot.current = new UPlot(optionsOf(parent), [times, rates], parent);
      resized.observe(parent);
    });
    return () => {
      isGone = true;
      resized.disconnect();
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [shown]);

  useEffect(() => plot.current?.setData([times, rates]), [times.length, times.at(-1)]);

  const latest = rates.at(-1) ?? 0;
  return (
    <figure class="plot">
      <figcaption>Images a second</figcaption>
      <div
        ref={place}
        role="img"
        aria-label={`Speed over time: ${rate(latest)} images a second now, at most ${rate(Math.max(...rates))}`}
      />
    </figure>
  );
}

function optionsOf(parent: HTMLElement): uPlot.Options {
  // A canvas takes no CSS variables: they are read from elements that have these colours.
  const colour = (name: string): string => {
    const probe = parent.appendChild(document.createElement('i'));
    probe.style.color = `var(${name})`;
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  };
  const axis: uPlot.Axis = {
    stroke: colour('--muted'),
    font: `12px ${getComputedStyle(parent).fontFamily}`,
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
  };
  return {
    width: parent.clientWidth,
    height,
    cursor: { show: false },
    legend: { show: false },
    scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
    series: [
      {},
      { stroke: colour('--accent'), fill: colour('--accent-soft'), width: 2, points: { show: false } },
    ],
    axes: [
      { ...axis, values: (_, times) => times.map(timeOfDay) },
      { ...axis, size: 48 },
    ],
  };
}

const timeOfDay = (seconds: number): string =>
  new Date(seconds * 1_000).toLocaleTimeString(undefined, { timeStyle: 'medium' });
