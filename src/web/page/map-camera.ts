/** Which part of the map is in sight. Plain numbers, so that gestures, keys and drawing agree. */
import type { MapPoints } from '../api.ts';

export type Point = MapPoints['points'][number];

/** A point of the map (x, y) lies at (x · scale + left, y · scale + top) pixels. */
export interface Camera {
  scale: number;
  left: number;
  top: number;
}

export interface Size {
  width: number;
  height: number;
}

const margin = 48;
/** Times as near as when all of the map is in sight. */
export const nearest = 60;

/** All points in sight. */
export function fitAll(points: readonly Point[], { width, height }: Size): Camera {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const { x, y } of points) {
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  if (points.length === 0) return { scale: 1, left: 0, top: 0 };
  const scale = Math.min(
    Math.max(1, width - 2 * margin) / (right - left || 1),
    Math.max(1, height - 2 * margin) / (bottom - top || 1),
  );
  return {
    scale,
    left: width / 2 - ((left + right) / 2) * scale,
    top: height / 2 - ((top + bottom) / 2) * scale,
  };
}

/** Nearer or farther, with what is at (x, y) pixels staying there. */
export function zoomAt(
  camera: Camera,
  factor: number,
  at: { x: number; y: number },
  { least, most }: { least: number; most: number },
): Camera {
  const scale = Math.min(most, Math.max(least, camera.scale * factor));
  const change = scale / camera.scale;
  return {
    scale,
    left: at.x - (at.x - camera.left) * change,
    top: at.y - (at.y - camera.top) * change,
  };
}

export const pan = (camera: Camera, dx: number, dy: number): Camera => ({
  ...camera,
  left: camera.left + dx,
  top: camera.top + dy,
});

export const place = (camera: Camera, { x, y }: { x: number; y: number }): { x: number; y: number } => ({
  x: x * camera.scale + camera.left,
  y: y * camera.scale + camera.top,
});

/** The point at (x, y) pixels, or the one nearest to there within `reach` pixels. */
export function pointAt(
  points: readonly Point[],
  camera: Camera,
  at: { x: number; y: number },
  reach: number,
): Point | undefined {
  let best: Point | undefined;
  let bestDistance = reach;
  for (const point of points) {
    const { x, y } = place(camera, point);
    const distance = Math.hypot(x - at.x, y - at.y);
    if (distance > bestDistance) continue;
    best = point;
    bestDistance = distance;
  }
  return best;
}

const directions: Record<string, readonly [number, number]> = {
  ArrowRight: [1, 0],
  ArrowLeft: [-1, 0],
  ArrowDown: [0, 1],
  ArrowUp: [0, -1],
};

/** The next point in the direction of an arrow key: near, and not far to the side. */
export function pointTowards(points: readonly Point[], from: Point, key: string): Point | undefined {
  const direction = directions[key];
  if (!direction) return undefined;
  const [dx, dy] = direction;
  let best: Point | undefined;
  let least = Infinity;
  for (const point of points) {
    const [x, y] = [point.x - from.x, point.y - from.y];
    const ahead = x * dx + y * dy;
    const aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (point === from || ahead <= 0 || aside > ahead) continue;
    const cost = ahead + 2 * aside;
    if (cost >= least) continue;
    least = cost;
    best = point;
  }
  return best;
}

export const isArrow = (key: string): boolean => key in directions;
