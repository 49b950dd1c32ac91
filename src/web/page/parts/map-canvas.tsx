/** The map itself: points on a canvas, and the gestures and keys that move over it. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { drawMap, type MapStyle } from '../draw-map.ts';
import {
  type Camera,
  fitAll,
  isArrow,
  nearest,
  type Point,
  pan,
  place,
  pointAt,
  pointTowards,
  type Size,
  zoomAt,
} from '../map-camera.ts';
import { Icon } from './icon.tsx';

/** Pixels around a point in which it is meant, by a mouse and by a finger. */
const reach = { mouse: 14, touch: 28 };
/** A press that moves farther is a drag. */
const dragPixels = 5;

export interface MapCanvasProps {
  points: readonly Point[];
  style: MapStyle;
  active: Point | undefined;
  /** What is told of the active point, and drawn beside it. */
  card: preact.ComponentChildren;
  onActive: (point: Point | undefined) => void;
  onChoose: (point: Point) => void;
}

export function MapCanvas({ points, style, active, card, onActive, onChoose }: MapCanvasProps) {
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [size, setSize] = useState<Size>({ width: 0, height: 0 });
  const [camera, setCamera] = useState<Camera>();
  const whole = fitAll(points, size);
  const shown = camera ?? whole;
  const limits = { least: whole.scale / 2, most: whole.scale * nearest };
  const at = active && place(shown, active);
  const pointers = useRef(new Map<number, { x: number; y: number }>());
  const moved = useRef(0);

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const resized = new ResizeObserver(() =>
      setSize({ width: element.clientWidth, height: element.clientHeight }),
    );
    resized.observe(element);
    // Not passive, as it would be by itself: the page must not scroll meanwhile.
    const onWheel = (event: WheelEvent): void => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), positionOf(event, element));
    };
    element.addEventListener('wheel', onWheel, { passive: false });
    return () => {
      resized.disconnect();
      element.removeEventListener('wheel', onWheel);
    };
  }, []);

  const latest = useRef({ whole, limits, size });
  latest.current = { whole, limits, size };

  useEffect(() => {
    if (!canvas.current || size.width === 0) return undefined;
    return drawMap(canvas.current, { points, camera: shown, size, style, active });
  }, [points, shown.scale, shown.left, shown.top, size, style, active]);

  function zoom(
    factor: number,
    at = { x: latest.current.size.width / 2, y: latest.current.size.height / 2 },
  ): void {
    setCamera((before) => zoomAt(before ?? latest.current.whole, factor, at, latest.current.limits));
  }

  function onPointerDown(event: PointerEvent): void {
    if (!box.current || event.button !== 0 || isControl(event)) return;
    box.current.setPointerCapture(event.pointerId);
    pointers.current.set(event.pointerId, positionOf(event, box.current));
    moved.current = 0;
  }

  function onPointerMove(event: PointerEvent): void {
    if (!box.current || isControl(event)) return;
    const now = positionOf(event, box.current);
    const before = pointers.current.get(event.pointerId);
    if (!before) {
      if (event.pointerType === 'mouse') onActive(pointAt(points, shown, now, reach.mouse));
      return;
    }
    pointers.current.set(event.pointerId, now);
    moved.current += Math.hypot(now.x - before.x, now.y - before.y);
    if (moved.current < dragPixels) return;
    const other = [...pointers.current].find(([id]) => id !== event.pointerId)?.[1];
    if (!other) {
      setCamera(pan(shown, now.x - before.x, now.y - before.y));
      return;
    }
    const spread = (p: { x: number; y: number }): number => Math.hypot(p.x - other.x, p.y - other.y) || 1;
    zoom(spread(now) / spread(before), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
  }

  function onPointerUp(event: PointerEvent): void {
    if (!box.current || !pointers.current.delete(event.pointerId) || moved.current >= dragPixels) return;
    const isTouch = event.pointerType !== 'mouse';
    const point = pointAt(points, shown, positionOf(event, box.current), isTouch ? reach.touch : reach.mouse);
    // A finger has not seen the picture yet: the first tap shows it, one on what is shown searches by it.
    if (point && (!isTouch || point === active)) onChoose(point);
    else onActive(point);
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== box.current) return;
    const { key } = event;
    if (key === '+' || key === '=') zoom(1.5, at);
    else if (key === '-') zoom(1 / 1.5, at);
    else if (key === '0') setCamera(undefined);
    else if (key === 'Enter' && active) onChoose(active);
    else if (key === 'Escape') onActive(undefined);
    else if (isArrow(key)) moveTo(active ? pointTowards(points, active, key) : middlePoint());
    else return;
    event.preventDefault();
  }

  const middlePoint = (): Point | undefined =>
    pointAt(points, shown, { x: size.width / 2, y: size.height / 2 }, Infinity);

  /** And brings it into sight. */
  function moveTo(point: Point | undefined): void {
    if (!point) return;
    const { x, y } = place(shown, point);
    if (x < 0 || y < 0 || x > size.width || y > size.height)
      setCamera(pan(shown, size.width / 2 - x, size.height / 2 - y));
    onActive(point);
  }

  return (
    <div
      ref={box}
      class="map"
      role="application"
      aria-label={`Map of ${points.length} images. Arrow keys go from picture to picture, Enter searches by one, plus and minus zoom.`}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: an application takes its own keys
      tabIndex={0}
      onPointerDown={onPointerDown}
      onPointerMove={onPointerMove}
      onPointerUp={onPointerUp}
      onPointerCancel={(event) => pointers.current.delete(event.pointerId)}
      onPointerLeave={(event) => event.pointerType === 'mouse' && onActive(undefined)}
      onKeyDown={onKeyDown}
    >
      <canvas ref={canvas} />
      {at && (
        <div
          class="map-card"
          data-side={at.x > size.width / 2 ? 'left' : 'right'}
          data-edge={at.y > size.height / 2 ? 'above' : 'below'}
          style={{ left: `${clamp(at.x, size.width)}px`, top: `${clamp(at.y, size.height)}px` }}
        >
          {card}
        </div>
      )}
      <div class="map-zoom">
        <button type="button" class="icon-button" aria-label="Nearer" onClick={() => zoom(1.5)}>
          <Icon name="plus" />
        </button>
        <button type="button" class="icon-button" aria-label="Farther" onClick={() => zoom(1 / 1.5)}>
          <Icon name="minus" />
        </button>
        <button
          type="button"
          class="icon-button"
          aria-label="All of the map"
          onClick={() => setCamera(undefined)}
        >
          <Icon name="fit" />
        </button>
      </div>
    </div>
  );
}

function positionOf(event: MouseEvent, box: HTMLElement): { x: number; y: number } {
  const { left, top } = box.getBoundingClientRect();
  return { x: event.clientX - left, y: event.clientY - top };
}

/** Buttons and the card's link lie on the map and are used as such. */
const isControl = ({ target }: Event): boolean =>
  target instanceof Element && target.closest('button, a') !== null;

const clamp = (at: number, most: number): number => Math.min(most, Math.max(0, at));
