/** Pictures that are nearly the same, the suggested keeper first. */
import type { HitReply } from '../../api.ts';
import { bytes, count, counted, nameOf, score } from '../format.ts';
import { type Group, type Mark, type Marked, markAsSuggested } from '../marks.ts';
import { hrefBy } from '../search-state.ts';
import { ratioOf } from './grid.tsx';
import { Icon } from './icon.tsx';
import { Thumbnail } from './thumbnail.tsx';

export function DuplicateGroup({
  group,
  number,
  marked,
  onToggle,
  onWhy,
}: {
  group: Group;
  number: number;
  marked: ReadonlyMap<string, Marked>;
  onToggle: (key: string, mark: Mark) => void;
  onWhy: (key: string) => void;
}) {
  const { keeper, size, images } = group;
  return (
    <li class="group">
      <div class="group-head">
        <h2>
          Group {number}{' '}
          <span class="muted">
            {counted(size, 'picture')}
            {images.length < size && `, of which ${count(images.length)} are shown`}
          </span>
        </h2>
        <button type="button" class="button" onClick={() => markAsSuggested([group])}>
          Mark as suggested<span class="unseen"> in group {number}</span>
        </button>
      </div>
      <ul class="grid">
        {images.map((image) => (
          <Duplicate
            key={image.key}
            image={image}
            isKeeper={image.key === keeper}
            mark={marked.get(image.key)?.mark}
            onToggle={(mark) => onToggle(image.key, mark)}
            onWhy={() => onWhy(image.key)}
          />
        ))}
      </ul>
    </li>
  );
}

const choices = [
  ['keep', 'Keep', 'check'],
  ['remove', 'Remove', 'close'],
] as const;

function Duplicate({
  image,
  isKeeper,
  mark,
  onToggle,
  onWhy,
}: {
  image: HitReply;
  isKeeper: boolean;
  mark: Mark | undefined;
  onToggle: (mark: Mark) => void;
  onWhy: () => void;
}) {
  const name = nameOf(image.id);
  return (
    <li class="card" style={{ '--ratio': ratioOf(image) }} data-key={image.key} data-mark={mark}>
      <a class="card-link" href={hrefBy(new URLSearchParams(), image.key)} title={image.id}>
        <Thumbnail image={image} size={384} />
        <span class="card-line">
          <span class="card-label" aria-hidden="true">
            {name}
          </span>
          <span class="card-score">
            <span class="unseen">score </span>
            {score(image.score)}
          </span>
        </span>
        <span class="card-line card-more">
          <span class="card-name">
            {image.width} × {image.height}, {bytes(image.bytes)}
          </span>
          <span class="card-run">{image.run}</span>
        </span>
      </a>
      {isKeeper && <span class="keeper">Suggested keeper</span>}
      <span class="card-actions">
        {!isKeeper && (
          <button type="button" onClick={onWhy} aria-label={`Compare ${name} with the keeper`}>
            <Icon name="compare" />
          </button>
        )}
      </span>
      <div class="marks">
        {choices.map(([choice, text, icon]) => (
          <button
            key={choice}
            type="button"
            class={`chip mark-${choice}`}
            aria-pressed={mark === choice}
            aria-label={`${text} ${name}`}
            onClick={() => onToggle(choice)}
          >
            <Icon name={icon} />
            {text}
          </button>
        ))}
      </div>
    </li>
  );
}
