/** The whole window takes pictures that are dropped or pasted; the server says what is no picture. */
import { useEffect, useState } from 'preact/hooks';
import { searchByPictures } from '../search-state.ts';
import { Icon } from './icon.tsx';

export function DropZone() {
  const [isOver, setOver] = useState(false);
  useEffect(() => {
    const gone = new AbortController();
    const listen = <Name extends keyof WindowEventMap>(
      name: Name,
      act: (event: WindowEventMap[Name]) => void,
    ): void => addEventListener(name, act, { signal: gone.signal });
    const hasFiles = (event: DragEvent): boolean => event.dataTransfer?.types.includes('Files') ?? false;
    // Each element that is entered is told before the one that is left.
    let depth = 0;
    listen('dragenter', (event) => {
      if (hasFiles(event)) depth++;
      setOver(depth > 0);
    });
    listen('dragleave', (event) => {
      if (hasFiles(event)) depth--;
      setOver(depth > 0);
    });
    listen('dragover', (event) => hasFiles(event) && event.preventDefault());
    listen('drop', (event) => {
      depth = 0;
      setOver(false);
      if (!hasFiles(event)) return;
      event.preventDefault();
      searchByPictures([...(event.dataTransfer?.files ?? [])]);
    });
    listen('paste', (event) => searchByPictures([...(event.clipboardData?.files ?? [])]));
    return () => gone.abort();
  }, []);
  if (!isOver) return null;
  return (
    <div class="drop-zone" aria-hidden="true">
      <div>
        <Icon name="search" />
        <p>Drop to search by it</p>
        <p class="drop-zone-more">Several pictures are averaged.</p>
      </div>
    </div>
  );
}
