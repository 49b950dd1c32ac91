/** Pictures in rows of one height, each as wide as it is. Arrow keys move; one card at a time is in the order of Tab. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { HitReply, Image } from '../../api.ts';
import { nameOf, score } from '../format.ts';
import { onCardKey } from './card-keys.ts';
import { Icon } from './icon.tsx';
import { Thumbnail } from './thumbnail.tsx';

export interface GridImage extends Image {
  score?: HitReply['score'];
}

export interface GridActions {
  /** Where a click or Enter leads: what searches by it. */
  hrefOf(key: string): string;
  /** The key w. */
  onWhy(key: string): void;
  /** The key a. */
  onAdd(key: string): void;
}

/**
 * Whether the focus was last in a grid. Results that follow take it over: it would else be lost with the card that was chosen.
 * Of the page, since the grid of a search is another one than that of the archive.
 */
let hasFocus = false;

/** Narrower and wider pictures are cut, so that captions have room and rows stay even. */
const narrowest = 0.72;
const widest = 2.2;

export function Grid({
  images,
  label,
  why,
  actions,
}: {
  images: readonly GridImage[];
  label: string;
  /** What the button that calls `onWhy` says. */
  why: string;
  actions: GridActions;
}) {
  const [current, setCurrent] = useState<string>();
  const list = useRef<HTMLUListElement>(null);
  const reached = images.some(({ key }) => key === current) ? current : images[0]?.key;

  useEffect(() => {
    if (hasFocus && document.activeElement === document.body)
      list.current?.querySelector<HTMLElement>('a[tabindex="0"]')?.focus({ preventScroll: true });
  }, [images]);

  function onKeyDown(event: KeyboardEvent): void {
    onCardKey(event, list.current, { w: actions.onWhy, a: actions.onAdd });
  }

  return (
    <ul
      ref={list}
      class="grid"
      aria-label={label}
      onKeyDown={onKeyDown}
      onFocusIn={({ target }) => {
        hasFocus = true;
        setCurrent(target instanceof Element ? target.closest<HTMLElement>('.card')?.dataset.key : undefined);
      }}
      onFocusOut={({ relatedTarget }) => {
        // Null where the card is gone, or the window.
        if (relatedTarget) hasFocus = false;
      }}
    >
      {images.map((image) => (
        <Card key={image.key} image={image} isReached={image.key === reached} why={why} actions={actions} />
      ))}
    </ul>
  );
}

function Card({
  image,
  isReached,
  why,
  actions,
}: {
  image: GridImage;
  isReached: boolean;
  why: string;
  actions: GridActions;
}) {
  const { key, labels, run } = image;
  const name = nameOf(image.id);
  const tabIndex = isReached ? 0 : -1;
  return (
    <li class="card" style={{ '--ratio': ratioOf(image) }} data-key={key}>
      <a
        class="card-link"
        href={actions.hrefOf(key)}
        tabIndex={tabIndex}
        title={`${image.id}\n${image.width} × ${image.height}, ${run}`}
        onDragStart={(event) => event.dataTransfer?.setData(keyType, key)}
      >
        <Thumbnail image={image} size={384} />
        <span class="card-line">
          {/* The picture's alt text has said both. */}
          <span class="card-label" aria-hidden="true">
            {labels[0]?.name ?? 'no label'}
          </span>
          {image.score !== undefined && (
            <span class="card-score">
              <span class="unseen">score </span>
              {score(image.score)}
            </span>
          )}
        </span>
        <span class="card-line card-more">
          <span class="card-name" aria-hidden="true">
            {name}
          </span>
          <span class="card-run">
            <span class="unseen">run </span>
            {run}
          </span>
        </span>
      </a>
      <span class="card-actions">
        <button
          type="button"
          tabIndex={tabIndex}
          onClick={() => actions.onWhy(key)}
          aria-label={`${why}: ${name}`}
        >
          <Icon name="compare" />
          <span>{why}</span>
        </button>
        <button
          type="button"
          tabIndex={tabIndex}
          onClick={() => actions.onAdd(key)}
          aria-label={`Add ${name} to what is searched by`}
          title="Add to what is searched by"
        >
          <Icon name="plus" />
        </button>
      </span>
    </li>
  );
}

/** What a card that is dragged carries: its key. */
export const keyType = 'application/x-lensmill-key';

export const ratioOf = ({ width, height }: Image): number =>
  Math.min(widest, Math.max(narrowest, width / height));

/** As many grey cards, in the places of the first pictures. */
export function GridSkeleton({ cards = 18 }: { cards?: number }) {
  return (
    <ul class="grid grid-skeleton" aria-hidden="true">
      {Array.from({ length: cards }, (_, at) => (
        <li key={at} class="card" style={{ '--ratio': [1.33, 0.8, 1.5, 1.2, 1][at % 5] }}>
          <span class="picture" />
          <span class="card-line" />
          <span class="card-line" />
        </li>
      ))}
    </ul>
  );
}
