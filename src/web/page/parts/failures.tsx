/** Images of a run that failed, by reason: the picture where it can be shown after all, or what is wrong with it. */
import { useState } from 'preact/hooks';
import type { FailedImages, RunFacts } from '../../api.ts';
import { usePages } from '../ask.ts';
import { askFailures, runThumbnail } from '../client.ts';
import { bytes, count, counted, nameOf } from '../format.ts';
import { Icon } from './icon.tsx';
import { More } from './more.tsx';
import { CommandLine, ProblemNotice } from './notice.tsx';

const pageSize = 40;

/** Reasons that leave no picture to be shown: asked for all the same, each would only be a failed request. */
const withoutPicture = new Set([
  'empty',
  'unsupported-format',
  'not-found',
  'access-denied',
  'encrypted',
  'bad-uri',
  'not-allowed',
]);

export function Failures({
  run: { run, state, failed, mended, failures },
  output,
  code,
  onCode,
}: {
  run: RunFacts;
  output: string;
  code: string | null;
  onCode: (code: string | null) => void;
}) {
  const reasons = Object.entries(failures).toSorted(([, a], [, b]) => b - a);
  return (
    <section class="failures" aria-label={`Failed images of ${run}`}>
      <h3>
        {counted(failed, 'image')} failed{mended > 0 && `; a retry has embedded ${count(mended)} of them`}
      </h3>
      {state !== 'done' ? (
        <p class="muted">Their reasons are told when the run is finished.</p>
      ) : (
        <ul class="chips">
          {reasons.map(([reason, images]) => (
            <li key={reason}>
              <button
                type="button"
                class="chip"
                aria-pressed={reason === code}
                onClick={() => onCode(reason === code ? null : reason)}
              >
                {reason} <span class="chip-count">{count(images)}</span>
              </button>
            </li>
          ))}
        </ul>
      )}
      {code && <FailedList key={code} run={run} code={code} />}
      {reasons.length > 0 && (
        <p class="advice">
          To do them again: <CommandLine text={`lensmill retry ${run} --failed --output ${output}`} />
        </p>
      )}
    </section>
  );
}

function FailedList({ run, code }: { run: string; code: string }) {
  const { items, isEnd, isLoading, problem, more } = usePages<FailedImages['images'][number]>(
    `failures ${run} ${code}`,
    async (after, signal) => {
      const { images, next } = await askFailures(run, code, { after, limit: pageSize }, signal);
      return { items: images, next };
    },
  );
  return (
    <>
      <ul class="failed" aria-label={`Failed: ${code}`} aria-busy={isLoading}>
        {items.map((image) => (
          <Failed key={image.id} run={run} image={image} />
        ))}
      </ul>
      {problem && <ProblemNotice problem={problem} retry={more} />}
      {!isEnd && !problem && items.length > 0 && <More isLoading={isLoading} more={more} />}
    </>
  );
}

function Failed({ run, image }: { run: string; image: FailedImages['images'][number] }) {
  const { id, uri, error, message } = image;
  const [isBroken, setBroken] = useState(withoutPicture.has(error));
  return (
    <li>
      {isBroken ? (
        <span class="picture">
          <Icon name="warning" />
        </span>
      ) : (
        <img
          class="picture"
          src={runThumbnail(run, id, 128)}
          alt={nameOf(id)}
          loading="lazy"
          onError={() => setBroken(true)}
        />
      )}
      <div>
        <p class="failed-name" title={uri}>
          {id}
        </p>
        <p class="muted">
          {error}: {message}
          {image.bytes > 0 && ` (${bytes(image.bytes)})`}
        </p>
      </div>
    </li>
  );
}
