/** The page over a real server, in a real browser. `deploy/bootstrap.sh test` builds the one and installs the other. */
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { planRun } from '../src/plan.ts';
import { claimRun } from '../src/runs/run.ts';
import { duration } from '../src/web/page/format.ts';
import { findBarriers, openBrowser, openPage, phone } from './helpers/browser.ts';
import { finish, itemsOf, listerOf } from './helpers/finished-run.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { makeRequest } from './helpers/requests.ts';
import { type IndexedOutput, makeIndexedOutput, serve, token } from './helpers/served.ts';
import { tempFolder } from './helpers/temp.ts';

const pictures = tempFolder();
const pageFolder = join(import.meta.dirname, '../src/web/public');
const first = join(pictures, 'part-0/00000.jpg');
const complaints: string[] = [];
let output: IndexedOutput;
let server: FastifyInstance;
let browser: Browser;
let address: string;

beforeAll(async () => {
  await makePhotoArchive(pictures, 14);
  await copyFile(first, join(pictures, 'copy of 00000.jpg'));
  await writeFile(join(pictures, 'cut.jpg'), (await readFile(first)).subarray(0, 9_000));
  output = await makeIndexedOutput(pictures);
  server = await serve(output, { pageFolder });
  await server.listen({ host: '127.0.0.1', port: 0 });
  const { port } = server.server.address() as AddressInfo; // it listens at a port
  address = `http://127.0.0.1:${port}/`;
  browser = await openBrowser();
});

afterAll(async () => {
  await browser?.close();
  await server?.close();
  await output?.store.close();
});

// Each would go on following events and drawing.
afterEach(async () => {
  for (const context of browser.contexts()) await context.close();
});

/** A view of the page, with the token. */
const open = (view = 'search', options = {}): Promise<Page> =>
  openPage(browser, `${address}#token=${token}`, complaints, options).then(async (page) => {
    await page.getByRole('link', { name: 'lensmill' }).waitFor();
    await page.goto(`${address}#/${view}`);
    return page;
  });

const cards = (page: Page) => page.locator('.results .card');
const query = (page: Page) => page.getByRole('region', { name: 'What is searched by' });

test('the token is gone from the address, and whoever has none is asked for it', async () => {
  const page = await open();
  await cards(page).first().waitFor();
  expect(page.url()).not.toContain(token);
  await page.context().clearCookies();
  await page.reload();
  await page.getByLabel('Token').fill('not-the-token-at-all');
  await page.getByRole('button', { name: 'Open' }).click();
  expect(await page.getByRole('alert').textContent()).toContain('lensmill serve');
  await page.getByLabel('Token').fill(token);
  await page.getByRole('button', { name: 'Open' }).click();
  await cards(page).first().waitFor();

  // The address with the token, opened where the page is already.
  await page.context().clearCookies();
  await page.reload();
  await page.getByLabel('Token').waitFor();
  await page.goto(`${address}#token=${token}`);
  await cards(page).first().waitFor();
  expect(page.url()).not.toContain(token);
});

test('over plain HTTP by another name, where browsers give less, the page is the same', async () => {
  const open = await serve(output, { pageFolder, host: '0.0.0.0' });
  try {
    await open.listen({ host: '127.0.0.1', port: 0 });
    const { port } = open.server.address() as AddressInfo; // it listens at a port
    const page = await openPage(browser, `http://photos.test:${port}/#token=${token}`, []);
    await cards(page).first().getByRole('link').click();
    await page.getByText('14 results').waitFor();
  } finally {
    await open.close();
  }
});

test('a click on a picture searches by it, why compares the two, and Back leads back', async () => {
  const page = await open();
  expect(await page.getByRole('note').textContent()).toContain('random:0:1-1-1-1');
  await page.locator('.card', { hasText: 'copy of 00000.jpg' }).getByRole('link').click();
  await query(page).getByText('copy of 00000.jpg').waitFor();
  const best = cards(page).first();
  await best.getByText('00000.jpg').waitFor();
  expect(await best.locator('.card-score').textContent()).toContain('1.000');
  await best.hover();
  await best.getByRole('button', { name: /^Why/ }).click();
  const why = page.getByRole('dialog', { name: 'Why this result' });
  await why.getByText('They share 5 of their top labels').waitFor();
  expect(await why.locator('.bar-marked').count()).toBe(10);
  await page.goBack();
  await why.waitFor({ state: 'detached' });
  await page.goBack();
  await page.getByText('15 images', { exact: true }).waitFor();
});

test('dropped pictures are searched by and averaged; what is no picture is told in the words of the server', async () => {
  const page = await open();
  await drop(page, [
    ['mine.jpg', await readFile(first)],
    ['notes.txt', Buffer.from('no picture')],
  ]);
  await query(page).getByText('mine.jpg').waitFor();
  await cards(page).first().getByText('1.000').waitFor();
  expect(await query(page).getByRole('alert').textContent()).toContain('not a JPEG');
  expect(await query(page).locator('.bar').count()).toBe(3);

  await drop(page, [['notes.txt', Buffer.from('no picture')]]);
  const problem = page.locator('.results').getByRole('alert');
  expect(await problem.textContent()).toContain('notes.txt: not a JPEG');
  await problem.getByRole('button', { name: 'Try again' }).waitFor();
  // Dropped pictures are in no URL, and Back finds them all the same.
  await page.goBack();
  await cards(page).first().getByText('1.000').waitFor();

  // After a reload they are lost; dropped again, they are searched by.
  await page.reload();
  await page.getByText('drop it again').waitFor();
  const lost = page.url();
  await drop(page, [['mine.jpg', await readFile(first)]]);
  await page.waitForURL((url) => url.href !== lost);
  await cards(page).first().getByText('1.000').waitFor();
});

test('filters are typed, stand in the address, and are taken away one by one', async () => {
  const page = await open();
  await cards(page).first().waitFor();
  await page.keyboard.press('/');
  await page.locator('[data-first-filter]:focus').waitFor();
  const name = (await page.locator('.option span').first().textContent()) ?? '';
  await page.keyboard.type(name.slice(0, 3));
  await page.getByRole('option', { name }).waitFor();
  await page.keyboard.press('Enter');
  const chip = page.getByRole('button', { name: new RegExp(`^${name}.*remove this filter`) });
  await chip.waitFor();
  await page.getByLabel('Path begins with').fill('copy');
  await page.waitForURL(/prefix=copy/);
  expect(page.url()).toMatch(/label=\d+/);
  await page.reload();
  await page.getByRole('button', { name: /^path copy/ }).click();
  await chip.click();
  await page.getByText('15 images', { exact: true }).waitFor();
});

test('with the keyboard alone: along the pictures, search, why, close', async () => {
  const page = await open();
  await cards(page).first().waitFor();
  const reached = () => page.evaluate<string>("document.activeElement.closest('.card')?.dataset.key ?? ''");
  while (!(await reached())) await page.keyboard.press('Tab');
  const start = await reached();
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowDown');
  const below = await reached();
  expect(new Set(['', start, below]).size).toBe(3);
  await page.keyboard.press('Enter');
  await page.waitForURL(`**/*by=${below}`);
  await page.getByText('14 results').waitFor();
  await page.locator('.card a').first().focus();
  await page.keyboard.press('w');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await page.keyboard.press('?');
  await page.getByRole('dialog', { name: 'Keys' }).waitFor();
});

test('duplicates are marked by click and key, and the marks exported', async () => {
  const page = await open('duplicates?threshold=1');
  const group = page.locator('.group');
  await group.getByText('Suggested keeper').waitFor();
  const link = group.locator('.card').nth(1).getByRole('link');
  await link.focus();
  await page.keyboard.press('r');
  await page.getByText('0 marked to keep, 1 to remove').waitFor();
  await group.getByRole('button', { name: /^Keep/ }).first().click();
  await page.getByText('1 marked to keep, 1 to remove').waitFor();

  const marked = JSON.parse(await exported(page, 'Export JSON'));
  expect(marked.map(({ mark }: { mark: string }) => mark).sort()).toEqual(['keep', 'remove']);
  const ids = new Set(marked.map(({ id }: { id: string }) => id));
  expect(ids).toEqual(new Set(['copy of 00000.jpg', 'part-0/00000.jpg']));
  const [head, ...lines] = (await exported(page, 'Export CSV')).trimEnd().split('\r\n');
  expect(head).toMatch(/^mark,id,uri,/);
  expect(lines).toHaveLength(2);
});

test('of many groups the largest are shown, in steps that the server takes', async () => {
  const page = await open('duplicates?threshold=1');
  await page.locator('.group').waitFor();
  const limits: number[] = [];
  await page.route('**/api/duplicates?*', async (route) => {
    const limit = Number(new URL(route.request().url()).searchParams.get('limit'));
    limits.push(limit);
    const reply = await route.fetch();
    const { groups, ...facts } = await reply.json();
    const many = Array.from({ length: limit }, () => ({ ...groups[0], images: [], size: 300 }));
    await route.fulfill({ response: reply, json: { ...facts, found: 2_000, groups: many } });
  });
  await page.goto(`${address}#/duplicates?threshold=0.999`);
  await page.getByText('2,000 groups of 2,001 pictures, the 50 largest shown; 15 compared').waitFor();
  await page.getByText('300 pictures, of which 0 are shown').first().waitFor();
  for (const shown of ['150', '450', '1,000']) {
    await page.getByRole('button', { name: 'Show more groups' }).click();
    await page.getByText(`the ${shown} largest shown`).waitFor();
  }
  expect(limits).toEqual([50, 150, 450, 1_000]);
  expect(await page.getByRole('button', { name: 'Show more groups' }).count()).toBe(0);
});

test('runs are shown as they go, and their failed images by reason', async () => {
  const { store } = output;
  const request = makeRequest('later');
  await claimRun(store, request);
  const later = await planRun(store, listerOf(itemsOf(['a', 'b', 'c'])), request);
  const page = await open('runs');
  const card = page.locator('.run', { hasText: 'later' });
  await card.getByText('lensmill resume later').waitFor();
  await finish(store, later, { b: 'truncated' });
  await card.getByText('done', { exact: true }).waitFor();
  await card.getByRole('button', { name: 'truncated 1' }).click();
  await card.getByText('truncated: b is truncated').waitFor();
  expect(page.url()).toContain('code=truncated');
});

test('a point of the map shows its picture, and is searched by', async () => {
  const page = await open('map');
  const map = page.getByRole('application', { name: /^Map of 15 images/ });
  await map.focus();
  await page.keyboard.press('ArrowRight');
  await page.locator('.map-card img').waitFor();
  const box = await map.boundingBox();
  // Anywhere but on a point: the wheel zooms, and the picture stays with its point.
  await page.mouse.move((box?.x ?? 0) + 5, (box?.y ?? 0) + 5);
  await page.mouse.wheel(0, -200);
  await map.focus();
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('Enter');
  await page.waitForURL(/#\/search\?by=/);
  await page.getByText('14 results').waitFor();
});

test('a map that was computed is there at once when the page comes back to it', async () => {
  const page = await open('runs');
  let isFirst = true;
  await page.route('**/api/map?*', async (route) => {
    if (!isFirst) return route.continue();
    isFirst = false;
    return route.fulfill({ json: { state: 'computing', progress: 0.5, points: [] } });
  });
  await page.goto(`${address}#/map`);
  await page.getByText('The map is being computed: 50 %').waitFor();
  await page.locator('.map canvas').waitFor();
  await page.goto(`${address}#/runs`);
  await page.getByRole('heading', { name: 'Runs' }).waitFor();
  await page.goto(`${address}#/map`);
  await page.locator('.map').waitFor();
  expect(await page.locator('.map-computing').count()).toBe(0);
});

test('times to come are told in whole minutes', () => {
  expect([59.2, 3_580, 7_199, 200_000].map(duration)).toEqual(['60 s', '1 h 0 min', '2 h 0 min', '2 days']);
});

test('a server that is away is told, and the page goes on by itself when it is back', async () => {
  const page = await open();
  await cards(page).first().waitFor();
  await page.context().setOffline(true);
  await cards(page).first().getByRole('link').click();
  await page.getByText('The server does not answer').first().waitFor();
  await page.context().setOffline(false);
  await page.getByText('14 results').waitFor();
  expect(await page.getByRole('alert').count()).toBe(0);
});

test.each([
  ['a desktop, light', { colorScheme: 'light' }],
  ['a phone, dark', { ...phone, colorScheme: 'dark' }],
])('%s: every view can be used by everybody, and none is wider than the screen', async (_, options) => {
  const page = await open('search', options);
  const check = async (): Promise<void> => {
    expect(await findBarriers(page)).toEqual([]);
    const wider = 'document.documentElement.scrollWidth - document.documentElement.clientWidth';
    expect(await page.evaluate<number>(wider)).toBe(0);
  };
  await cards(page).first().waitFor();
  await check();
  await cards(page).first().getByRole('link').click();
  await page.getByText('14 results').waitFor();
  await check();
  await page.locator('.card a').first().focus();
  await page.keyboard.press('w');
  await page.getByText('They share').waitFor();
  await check();
  for (const [view, seen] of [
    ['duplicates', '.group'],
    ['runs', '.run .failures'],
    ['map', '.map canvas'],
  ] as const) {
    await page.goto(`${address}#/${view}`);
    await page.locator(seen).first().waitFor();
    await check();
  }
});

test('a picture whose source is gone says so in its place', async () => {
  const page = await open('runs');
  await page.route('**/thumbnail?*', (route) => route.fulfill({ status: 410 }));
  await page.goto(`${address}#/search`);
  await cards(page).first().getByText('cannot be read').waitFor();
});

test('on a phone, a long name leaves all of what is searched by in sight', async () => {
  const page = await open('search', phone);
  await drop(page, [[`${'long-'.repeat(40)}.jpg`, await readFile(first)]]);
  await cards(page).first().getByText('1.000').waitFor();
  const hidden =
    "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector('.query-list'))";
  expect(await page.evaluate<number>(hidden)).toBe(0);
});

test('the browser had nothing to complain of but the refusals that were tested', () => {
  const refused =
    /Failed to load resource: (the server responded with a status of (401|410|415)|net::ERR_INTERNET_DISCONNECTED)/;
  expect(complaints.filter((complaint) => !refused.test(complaint))).toEqual([]);
});

/** As files from the desktop. */
async function drop(page: Page, files: readonly (readonly [name: string, content: Buffer])[]): Promise<void> {
  const listed = files.map(([name, content]) => [name, content.toString('base64')]);
  const transfer = await page.evaluateHandle(`(() => {
    const transfer = new DataTransfer();
    for (const [name, content] of ${JSON.stringify(listed)})
      transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
    return transfer;
  })()`);
  for (const type of ['dragenter', 'dragover', 'drop'])
    await page.dispatchEvent('main', type, { dataTransfer: transfer });
}

async function exported(page: Page, button: string): Promise<string> {
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: button }).click(),
  ]);
  return readFile(await download.path(), 'utf8');
}
