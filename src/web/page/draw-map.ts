/** Draws the map: each image a shape in its label's colour; near enough, the pictures themselves. */
import { thumbnailOf } from './client.ts';
import { type Camera, type Point, place, type Size } from './map-camera.ts';
import { type Look, pathOf } from './palette.ts';

export interface MapStyle {
  looks: ReadonlyMap<number, Look>;
  other: Look;
  /** Around the active point. */
  ring: string;
  /** The label that stands out; the others fade. */
  lit: number | undefined;
}

/** With fewer points in sight there is room for pictures. */
const maxPictures = 40;
const pictureSide = 56;

interface Scene {
  points: readonly Point[];
  camera: Camera;
  size: Size;
  style: MapStyle;
  active: Point | undefined;
}

/** Gives back what stops it from drawing pictures that arrive later. */
export function drawMap(canvas: HTMLCanvasElement, scene: Scene): () => void {
  const gone = new AbortController();
  paint(canvas, scene, () =>
    requestAnimationFrame(() => gone.signal.aborted || paint(canvas, scene, () => {})),
  );
  return () => gone.abort();
}

function paint(canvas: HTMLCanvasElement, scene: Scene, onArrival: () => void): void {
  const { points, camera, size, style, active } = scene;
  const context = canvas.getContext('2d');
  if (!context) return;
  const density = devicePixelRatio;
  canvas.width = Math.round(size.width * density);
  canvas.height = Math.round(size.height * density);
  context.scale(density, density);
  const visible = points.filter((point) => isInSight(place(camera, point), size));
  const showPictures = visible.length <= maxPictures && visible.length < points.length;
  const radius = Math.min(7, Math.max(3.5, 90 / Math.sqrt(visible.length)));
  const shapes = new Map<Look, Path2D>();
  const shapeOf = (look: Look): Path2D => {
    const shape = shapes.get(look) ?? new Path2D(pathOf(look.shape, radius));
    shapes.set(look, shape);
    return shape;
  };
  const draw = (point: Point): void => {
    const { x, y } = place(camera, point);
    const look = style.looks.get(point.label) ?? style.other;
    context.globalAlpha = style.lit === undefined || style.lit === point.label ? 0.9 : 0.12;
    context.save();
    context.translate(x, y);
    const picture = showPictures ? pictureOf(point.key, onArrival) : undefined;
    if (picture) drawPicture(context, picture, look.colour);
    else {
      context.fillStyle = look.colour;
      context.fill(shapeOf(look));
    }
    if (point === active) {
      context.globalAlpha = 1;
      context.strokeStyle = style.ring;
      context.lineWidth = 2.5;
      context.stroke(
        new Path2D(picture ? pathOf('square', pictureSide / 1.6) : pathOf('circle', radius + 4)),
      );
    }
    context.restore();
  };
  // Those without a colour of their own below the others, the active one on top.
  for (const point of visible) if (!style.looks.has(point.label) && point !== active) draw(point);
  for (const point of visible) if (style.looks.has(point.label) && point !== active) draw(point);
  if (active) draw(active);
}

const isInSight = ({ x, y }: { x: number; y: number }, { width, height }: Size): boolean =>
  x > -pictureSide && y > -pictureSide && x < width + pictureSide && y < height + pictureSide;

function drawPicture(context: CanvasRenderingContext2D, picture: HTMLImageElement, colour: string): void {
  const { naturalWidth: width, naturalHeight: height } = picture;
  const side = Math.min(width, height);
  const half = pictureSide / 2;
  context.fillStyle = colour;
  context.fillRect(-half - 2, -half - 2, pictureSide + 4, pictureSide + 4);
  // The middle square of the picture.
  context.drawImage(
    picture,
    (width - side) / 2,
    (height - side) / 2,
    side,
    side,
    -half,
    -half,
    pictureSide,
    pictureSide,
  );
}

const pictures = new Map<string, HTMLImageElement>();
const maxKept = 400;

/** Undefined while it is on its way, and where it cannot be had. */
function pictureOf(key: string, onArrival: () => void): HTMLImageElement | undefined {
  let picture = pictures.get(key);
  if (!picture) {
    picture = new Image();
    picture.src = thumbnailOf(key, 128);
    pictures.set(key, picture);
    const [oldest] = pictures.keys();
    if (pictures.size > maxKept && oldest !== undefined) pictures.delete(oldest);
  }
  if (picture.complete) return picture.naturalWidth > 0 ? picture : undefined;
  picture.addEventListener('load', onArrival, { once: true });
  return undefined;
}
