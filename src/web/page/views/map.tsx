/** A sample of the archive in the plane: what is alike lies together. */
import { useEffect, useMemo, useState } from 'preact/hooks';
import type { Image, LabelCounts, MapPoints } from '../../api.ts';
import { useAsk } from '../ask.ts';
import { askImage, askLabels, askMap } from '../client.ts';
import type { MapStyle } from '../draw-map.ts';
import { count, counted, nameOf, percent } from '../format.ts';
import type { Point } from '../map-camera.ts';
import { colouredLabels, lookOf, pathOf } from '../palette.ts';
import { MapCanvas } from '../parts/map-canvas.tsx';
import { Empty, ProblemNotice } from '../parts/notice.tsx';
import { Thumbnail } from '../parts/thumbnail.tsx';
import { go, route, withParams } from '../route.ts';
import { hrefBy } from '../search-state.ts';
import { useStore } from '../store.ts';
import { type Theme, theme } from '../theme.ts';

const samples = [500, 2_000, 5_000];
const usualSample = 2_000;
const askAgainMs = 700;

export function MapView() {
  const { params } = useStore(route);
  const images = Number(params.get('images') ?? usualSample);
  const { value, problem, isLoading, retry } = useAsk(
    `map ${images}`,
    (signal) => askMap(images, signal),
    ({ state }) => state === 'done',
  );
  const isComputing = value?.state === 'computing';
  useEffect(() => {
    if (!isComputing || isLoading || problem) return;
    const timer = setTimeout(retry, askAgainMs);
    return () => clearTimeout(timer);
  }, [value, isLoading, problem]);
  return (
    <>
      <div class="view-head">
        <h1>Map</h1>
        <p class="muted lead">
          Pictures that look alike lie together; distances between far groups mean little.
        </p>
        <div class="field field-row">
          <label for="sample">Images, at most</label>
          <select
            id="sample"
            value={images}
            onChange={({ currentTarget }) =>
              go(
                { view: 'map', params: withParams(params, { images: currentTarget.value }) },
                { replace: true },
              )
            }
          >
            {samples.map((sample) => (
              <option key={sample} value={sample}>
                {count(sample)}
              </option>
            ))}
          </select>
        </div>
      </div>
      {problem && <ProblemNotice problem={problem} retry={retry} />}
      {!problem && (!value || isComputing) && <Computing progress={value?.progress ?? 0} />}
      {!problem && value?.state === 'done' && <MapOf points={value.points} />}
    </>
  );
}

function Computing({ progress }: { progress: number }) {
  return (
    <div class="map map-computing">
      <div>
        <p role="status">The map is being computed: {percent(progress)}</p>
        <div
          class="progress"
          role="progressbar"
          aria-label="Progress of the map"
          aria-valuenow={Math.round(progress * 100)}
          aria-valuemin={0}
          aria-valuemax={100}
        >
          <span style={{ width: `${progress * 100}%` }} />
        </div>
      </div>
    </div>
  );
}

function MapOf({ points }: { points: MapPoints['points'] }) {
  const shownTheme = useStore(theme);
  const [active, setActive] = useState<Point>();
  const [lit, setLit] = useState<number>();
  const { value: counts } = useAsk('labels {}', (signal) => askLabels({}, signal));
  const { value: image } = useAsk(active ? `image ${active.key}` : null, (signal) =>
    askImage(active?.key ?? '', signal),
  );
  const ranks = useMemo(() => rankLabels(points), [points]);
  const style = useMemo<MapStyle>(
    () => ({
      looks: new Map(ranks.map(({ label }, rank) => [label, lookOf(rank, shownTheme)])),
      other: lookOf(undefined, shownTheme),
      ring: shownTheme === 'dark' ? '#ffffff' : '#16181d',
      lit,
    }),
    [ranks, shownTheme, lit],
  );

  if (points.length === 0)
    return (
      <Empty icon="map" title="Nothing to draw">
        <p>The index holds no image that can be shown.</p>
      </Empty>
    );
  const shown = image?.key === active?.key ? image : undefined;
  return (
    <div class="map-view">
      <MapCanvas
        points={points}
        style={style}
        active={active}
        card={shown && <PointCard image={shown} />}
        onActive={setActive}
        onChoose={({ key }) => location.assign(hrefBy(new URLSearchParams(), key))}
      />
      <p class="unseen" role="status">
        {shown && `${shown.labels[0]?.name ?? 'no label'}, ${nameOf(shown.id)}`}
      </p>
      <Legend
        ranks={ranks}
        points={points}
        counts={counts ?? []}
        shownTheme={shownTheme}
        lit={lit}
        onLit={setLit}
      />
    </div>
  );
}

/** The most frequent first, as many as have colours. */
function rankLabels(points: readonly Point[]): { label: number; images: number }[] {
  const images = new Map<number, number>();
  for (const { label } of points) images.set(label, (images.get(label) ?? 0) + 1);
  return [...images]
    .map(([label, number]) => ({ label, images: number }))
    .toSorted((a, b) => b.images - a.images || a.label - b.label)
    .slice(0, colouredLabels);
}

function PointCard({ image }: { image: Image }) {
  return (
    <a href={hrefBy(new URLSearchParams(), image.key)} tabIndex={-1}>
      <Thumbnail image={image} size={256} isLazy={false} />
      <b>{image.labels[0]?.name ?? 'no label'}</b>
      <span class="muted">{nameOf(image.id)}</span>
    </a>
  );
}

function Legend({
  ranks,
  points,
  counts,
  shownTheme,
  lit,
  onLit,
}: {
  ranks: readonly { label: number; images: number }[];
  points: readonly Point[];
  counts: LabelCounts;
  shownTheme: Theme;
  lit: number | undefined;
  onLit: (label: number | undefined) => void;
}) {
  const others = points.length - ranks.reduce((sum, { images }) => sum + images, 0);
  return (
    <section class="legend" aria-label="Labels on the map">
      <h2>{counted(points.length, 'image')}</h2>
      <ul>
        {ranks.map(({ label, images }, rank) => (
          <li key={label}>
            <button
              type="button"
              class="legend-item"
              aria-pressed={lit === label}
              onClick={() => onLit(lit === label ? undefined : label)}
            >
              <Swatch rank={rank} shownTheme={shownTheme} />
              <span class="legend-name">
                {counts.find((one) => one.label === label)?.name ?? `label ${label}`}
              </span>
              <span class="muted">{count(images)}</span>
            </button>
          </li>
        ))}
        {others > 0 && (
          <li class="legend-item">
            <Swatch rank={undefined} shownTheme={shownTheme} />
            <span class="legend-name">other labels</span>
            <span class="muted">{count(others)}</span>
          </li>
        )}
      </ul>
    </section>
  );
}

function Swatch({ rank, shownTheme }: { rank: number | undefined; shownTheme: Theme }) {
  const { colour, shape } = lookOf(rank, shownTheme);
  return (
    <svg viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">
      <path d={pathOf(shape, 5.5)} fill={colour} />
    </svg>
  );
}
