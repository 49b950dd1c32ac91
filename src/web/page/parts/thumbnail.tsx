/** A picture of the index. Its place is kept from the first moment, so that nothing moves when it arrives. */
import { useState } from 'preact/hooks';
import type { Image } from '../../api.ts';
import { thumbnailOf } from '../client.ts';
import { nameOf } from '../format.ts';
import { Icon } from './icon.tsx';

export function Thumbnail({ image, size, isLazy = true }: { image: Image; size: number; isLazy?: boolean }) {
  const [isBroken, setBroken] = useState(false);
  const alt = describe(image);
  if (isBroken)
    return (
      <span class="picture picture-broken" role="img" aria-label={`${alt}; its source cannot be read`}>
        <Icon name="picture" />
        <span class="picture-why">cannot be read</span>
      </span>
    );
  return (
    <img
      class="picture"
      src={thumbnailOf(image.key, size)}
      srcset={`${thumbnailOf(image.key, size)} 1x, ${thumbnailOf(image.key, Math.min(1024, size * 2))} 2x`}
      width={image.width}
      height={image.height}
      alt={alt}
      loading={isLazy ? 'lazy' : 'eager'}
      decoding="async"
      draggable={false}
      onError={() => setBroken(true)}
    />
  );
}

/** What a screen reader says of it. */
export function describe(image: Image): string {
  const [best] = image.labels;
  return best ? `${best.name}, ${nameOf(image.id)}` : nameOf(image.id);
}
