/** Why a result is there: what is searched by and the hit side by side, what the model sees in each, and what they share. */
import type { ComponentChildren } from 'preact';
import { useState } from 'preact/hooks';
import type { Image, SearchResult } from '../../api.ts';
import { useAsk } from '../ask.ts';
import { askImage } from '../client.ts';
import { bytes, moment, nameOf, percent, score } from '../format.ts';
import { addToSearch, hrefBy, picturesOf, type SearchState, seenIn } from '../search-state.ts';
import { Bars } from './bars.tsx';
import { Dialog } from './dialog.tsx';
import { FilePicture } from './file-picture.tsx';
import { ProblemNotice } from './notice.tsx';
import { Thumbnail } from './thumbnail.tsx';

/** One side: a picture and what the model sees in it. */
interface Side {
  name: string;
  labels: Image['labels'];
  picture: ComponentChildren;
}

export function Why({
  hitKey,
  params,
  state,
  result,
  onClose,
}: {
  hitKey: string;
  params: URLSearchParams;
  state: SearchState;
  /** Of the search; without one, the image is shown alone. */
  result: SearchResult | undefined;
  onClose: () => void;
}) {
  const [chosen, setChosen] = useState(0);
  const hit = result?.hits.find(({ key }) => key === hitKey);
  const files = state.dropped === null ? [] : (picturesOf(state.dropped) ?? []);
  const queries = files.length + state.by.length;
  // Dropped pictures come first, then images of the index, as in the bar.
  const queryKey = state.by[chosen - files.length];
  const { value: image, problem, retry } = useAsk(`image ${hitKey}`, (signal) => askImage(hitKey, signal));
  const { value: queryImage } = useAsk(queryKey === undefined ? null : `image ${queryKey}`, (signal) =>
    askImage(queryKey ?? '', signal),
  );
  const file = files[chosen];
  const seen = result && seenIn(files, result)[chosen];
  const query: Side | undefined = file
    ? {
        name: file.name,
        labels: seen && 'labels' in seen ? seen.labels : [],
        picture: <FilePicture file={file} size={800} />,
      }
    : queryImage && sideOf(queryImage);
  const shared = new Set(
    query?.labels.flatMap(({ label }) => (image?.labels.some((other) => other.label === label) ? label : [])),
  );
  return (
    <Dialog title={queries > 0 ? 'Why this result' : 'Details'} size="large" onClose={onClose}>
      {problem && <ProblemNotice problem={problem} retry={retry} />}
      {image && (
        <>
          {queries > 0 && (
            <Reason cosine={hit?.score} query={query} image={image} shared={shared} queries={queries} />
          )}
          <div class={queries > 0 ? 'why-sides' : 'why-sides why-alone'}>
            {query && (
              <SideView side={query} title="Searched by" shared={shared}>
                {queries > 1 && (
                  <p class="why-choose">
                    {Array.from({ length: queries }, (_, at) => (
                      <button
                        key={at}
                        type="button"
                        class="chip"
                        aria-pressed={at === chosen}
                        onClick={() => setChosen(at)}
                      >
                        Picture {at + 1}
                      </button>
                    ))}
                  </p>
                )}
              </SideView>
            )}
            <SideView side={sideOf(image)} title={queries > 0 ? 'Found' : undefined} shared={shared} />
          </div>
          <p class="why-actions">
            <a class="button button-main" href={hrefBy(params, hitKey)}>
              Search by it
            </a>
            <button type="button" class="button" onClick={() => addToSearch(hitKey)}>
              Add to the search
            </button>
          </p>
          <Facts image={image} />
        </>
      )}
    </Dialog>
  );
}

const sideOf = (image: Image): Side => ({
  name: nameOf(image.id),
  labels: image.labels,
  picture: <Thumbnail image={image} size={768} isLazy={false} />,
});

function Reason({
  cosine,
  query,
  image,
  shared,
  queries,
}: {
  cosine: number | undefined;
  query: Side | undefined;
  image: Image;
  shared: ReadonlySet<number>;
  queries: number;
}) {
  const names = image.labels.filter(({ label }) => shared.has(label)).map(({ name }) => name);
  return (
    <p class="why-reason">
      {cosine !== undefined && (
        <>
          <b class="why-score">{score(cosine)}</b> is the cosine between the two embeddings (1: the same
          direction
          {queries > 1 && '; the query is the average of all its pictures'}).{' '}
        </>
      )}
      {query &&
        (names.length > 0
          ? `They share ${names.length} of their top labels: ${names.join(', ')}.`
          : 'They share none of their top labels: what is alike lies in the embedding, such as colours, texture or layout.')}
    </p>
  );
}

function SideView({
  side,
  title,
  shared,
  children,
}: {
  side: Side;
  title: string | undefined;
  shared: ReadonlySet<number>;
  children?: ComponentChildren;
}) {
  return (
    <section class="why-side">
      {title && <h3>{title}</h3>}
      <div class="why-picture">{side.picture}</div>
      <p class="why-name">{side.name}</p>
      <Bars
        label={`Labels of ${side.name}`}
        bars={side.labels.map(({ label, name, score: share }) => ({
          name: shared.has(label) ? `${name} · shared` : name,
          share,
          text: percent(share),
          marked: shared.has(label),
        }))}
      />
      {children}
    </section>
  );
}

function Facts({ image }: { image: Image }) {
  const facts: [string, ComponentChildren][] = [
    ['Id', image.id],
    ['Address', image.uri],
    ['Picture', `${image.width} × ${image.height}, ${image.format}, ${bytes(image.bytes)}`],
    ['Run', `${image.run}, ${moment(image.runAt)}`],
    ['SHA-256', image.sha256],
  ];
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
