import { hash } from 'node:crypto';
import sharp from 'sharp';
import { beforeAll, expect, test } from 'vitest';
import { renderSheet, type SheetCard } from '../src/contact-sheet.ts';
import { makeThumbnail, type Thumbnail } from '../src/thumbnail.ts';

let picture: Thumbnail;

beforeAll(async () => {
  const png = await sharp({ create: { width: 30, height: 20, channels: 3, background: '#0a0' } })
    .png()
    .toBuffer();
  const made = await makeThumbnail(png, { size: 64, maxPixels: 1e6 });
  if ('error' in made) throw new Error(made.message);
  picture = made;
});

function render(...cards: Partial<SheetCard>[]): string {
  const whole = cards.map((card): SheetCard => ({ picture, name: 'a.jpg', details: [], ...card }));
  return renderSheet({ title: 'Hits', facts: [], sections: [{ cards: whole }] });
}

test('whatever an image is called is text, wherever it is shown', () => {
  const evil = `"><script>alert('x')</script><img src=x onerror=alert(1)>&amp;\u0007`;
  const html = renderSheet({
    title: evil,
    facts: [evil],
    warning: evil,
    sections: [
      {
        heading: evil,
        cards: [
          { picture, name: evil, uri: evil, mark: evil, badge: { text: evil, kind: 'good' }, label: evil, details: [evil] },
          { picture: evil, name: evil, details: [] },
        ],
      },
    ],
  }); // biome-ignore format: one card
  expect(html).not.toMatch(/<script|<img src=x/i);
  const shown =
    '&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&amp;amp;\uFFFD';
  // Title twice, fact, warning, heading; of the card alt, mark, badge, label, tooltip, name, detail; why, tooltip, name.
  expect(html.split(shown).length - 1).toBe(15);
});

test('the page holds all that it shows, and its policy lets it fetch and run nothing', () => {
  const html = render({ score: 0.5 });
  const policy = /http-equiv="Content-Security-Policy" content="([^"]*)"/.exec(html)?.[1] ?? '';
  const style = /<style>([\s\S]*?)<\/style>/.exec(html)?.[1] ?? '';
  expect(policy).toContain("default-src 'none'; img-src data:;");
  expect(policy).toContain(`style-src 'sha256-${hash('sha256', style, 'base64')}'`);
  expect(policy).not.toContain('unsafe');
  expect(html).not.toMatch(/\sstyle=|\son[a-z]+=|<link|url\(|@import/);
  const [, data = ''] = /src="data:image\/webp;base64,([^"]+)" width="30" height="20"/.exec(html) ?? [];
  expect(Buffer.from(data, 'base64').equals(picture.content)).toBe(true);
});

test.each([
  ['https://example.org/a b.jpg', true],
  ['file:///photos/a.jpg', true],
  ['s3://photos/a.jpg', false],
  ['file:///photos/all.tar!a.jpg', false],
  ['javascript:alert(1)', false],
  ['data:text/html,x', false],
])('an image at %s is a link only where a browser can open it', (uri, isLink) => {
  expect(render({ uri }).includes(`<a href="${uri}">`)).toBe(isLink);
});

test('a cosine below zero has a bar of no length', () => {
  expect(render({ score: -0.25 })).toMatch(/<b>-0\.2500<\/b>.*class="fill" width="0\.0"/);
});
