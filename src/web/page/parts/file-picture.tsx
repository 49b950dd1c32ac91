/** A picture that was dropped, drawn on a canvas: a blob: URL would need a hole in the Content-Security-Policy. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { Icon } from './icon.tsx';

/** `size`: pixels of the longer side at most. */
export function FilePicture({ file, size }: { file: File; size: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [isShown, setShown] = useState(true);
  useEffect(() => {
    let isGone = false;
    draw(file, size, () => (isGone ? null : canvas.current)).then(
      () => setShown(true),
      // A format that lensmill reads and the browser does not, such as TIFF; or no picture at all, which the server tells.
      () => setShown(false),
    );
    return () => {
      isGone = true;
    };
  }, [file, size]);
  return (
    <span class="picture" role="img" aria-label={file.name}>
      <canvas ref={canvas} hidden={!isShown} />
      {!isShown && <Icon name="picture" />}
    </span>
  );
}

async function draw(file: File, size: number, target: () => HTMLCanvasElement | null): Promise<void> {
  const bitmap = await createImageBitmap(file);
  const canvas = target();
  if (canvas) {
    const scale = Math.min(1, size / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext('2d');
    if (context) {
      context.imageSmoothingQuality = 'high';
      context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    }
  }
  bitmap.close();
}
