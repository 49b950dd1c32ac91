/** What is searched by, always in sight, with what the model sees in it; without a search, how to begin one. */
import { useRef } from 'preact/hooks';
import type { Image, SearchResult } from '../../api.ts';
import { useAsk } from '../ask.ts';
import { askImage } from '../client.ts';
import { nameOf, percent } from '../format.ts';
import {
  addToSearch,
  changeSearch,
  picturesOf,
  type SearchState,
  type Seen,
  searchByPictures,
  seenIn,
} from '../search-state.ts';
import { Bars } from './bars.tsx';
import { FilePicture } from './file-picture.tsx';
import { keyType } from './grid.tsx';
import { Icon } from './icon.tsx';
import { Thumbnail } from './thumbnail.tsx';

const shownLabels = 3;

export function QueryBar({ state, result }: { state: SearchState; result: SearchResult | undefined }) {
  const { by, dropped } = state;
  const files = dropped === null ? [] : (picturesOf(dropped) ?? []);
  const seen = result ? seenIn(files, result) : [];
  const queries = by.length + files.length;
  return (
    <section
      class={queries > 0 ? 'query' : 'query query-empty'}
      aria-label="What is searched by"
      onDragOver={(event) => event.dataTransfer?.types.includes(keyType) && event.preventDefault()}
      onDrop={(event) => {
        const key = event.dataTransfer?.getData(keyType);
        if (key) addToSearch(key);
      }}
    >
      {queries === 0 ? (
        <p class="query-how">
          <Icon name="picture" />
          <span class="only-wide">
            <b>Drop a picture anywhere</b>, paste one, or pick any below, to find what looks like it.
          </span>
          <span class="only-narrow">Choose a picture, or tap any below, to find what looks like it.</span>
        </p>
      ) : (
        <ul class="query-list">
          {files.map((file, at) => (
            <QueryItem
              key={`${dropped} ${at}`}
              name={file.name}
              seen={seen[at]}
              picture={<FilePicture file={file} size={320} />}
              onRemove={() =>
                files.length === 1
                  ? changeSearch({ dropped: null, why: null })
                  : searchByPictures(files.filter((other) => other !== file))
              }
            />
          ))}
          {by.map((key) => (
            <IndexedQuery
              key={key}
              imageKey={key}
              onRemove={() => changeSearch({ by: by.filter((other) => other !== key), why: null })}
            />
          ))}
        </ul>
      )}
      <div class="query-actions">
        <ChooseFiles label={queries > 0 ? 'Other pictures' : 'Choose pictures'} />
        {queries > 0 && (
          <a class="button" href="#/search">
            Browse all
          </a>
        )}
      </div>
    </section>
  );
}

function IndexedQuery({ imageKey, onRemove }: { imageKey: string; onRemove: () => void }) {
  const { value: image } = useAsk<Image>(`image ${imageKey}`, (signal) => askImage(imageKey, signal));
  const isThis = image?.key === imageKey;
  return (
    <QueryItem
      name={isThis ? nameOf(image.id) : '…'}
      seen={isThis ? image : undefined}
      picture={isThis ? <Thumbnail image={image} size={384} isLazy={false} /> : <span class="picture" />}
      onRemove={onRemove}
    />
  );
}

function QueryItem({
  name,
  seen,
  picture,
  onRemove,
}: {
  name: string;
  seen: Seen | undefined;
  picture: preact.ComponentChildren;
  onRemove: () => void;
}) {
  return (
    <li class="query-item">
      {picture}
      <div class="query-text">
        <span class="query-name" title={name}>
          {name}
        </span>
        {seen && 'refused' in seen ? (
          <p class="query-refused" role="alert">
            Left out: {seen.refused}
          </p>
        ) : (
          <Bars
            label={`What the model sees in ${name}`}
            bars={(seen?.labels ?? []).slice(0, shownLabels).map(({ name: label, score: share }) => ({
              name: label,
              share,
              text: percent(share),
            }))}
          />
        )}
      </div>
      <button type="button" class="icon-button" aria-label={`Do not search by ${name}`} onClick={onRemove}>
        <Icon name="close" />
      </button>
    </li>
  );
}

function ChooseFiles({ label }: { label: string }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <button type="button" class="button button-main" onClick={() => input.current?.click()}>
        {label}
      </button>
      <input
        ref={input}
        type="file"
        multiple
        hidden
        aria-label="Pictures to search by"
        onChange={({ currentTarget }) => {
          searchByPictures([...(currentTarget.files ?? [])]);
          // The same file, chosen again, is a search again.
          currentTarget.value = '';
        }}
      />
    </>
  );
}
