import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { LeaseLost, openLease } from '../src/lease.ts';

test('a lease that is not renewed ends by itself, and says so to whoever listens', async () => {
  const lease = openLease(30, performance.now());
  expect(() => lease.check()).not.toThrow();
  await new Promise((resolve) => lease.signal.addEventListener('abort', resolve));
  expect(lease.signal.reason).toBeInstanceOf(LeaseLost);
  expect(() => lease.check()).toThrow(LeaseLost);
});

test('a process that was stopped past its lease learns it from the first check, before any timer', () => {
  const lease = openLease(30, performance.now());
  for (const until = performance.now() + 40; performance.now() < until; );
  expect(lease.signal.aborted).toBe(false);
  expect(() => lease.check()).toThrow(LeaseLost);
  expect(lease.signal.aborted).toBe(true);
});

test('a renewal counts from when it was sent, and an old one takes nothing away', async () => {
  const taken = performance.now();
  const lease = openLease(100, taken);
  lease.renewed(taken + 150);
  lease.renewed(taken + 10);
  await sleep(taken + 180 - performance.now());
  expect(() => lease.check()).not.toThrow();
  await sleep(taken + 260 - performance.now());
  expect(() => lease.check()).toThrow(LeaseLost);
});

test('a lease that was closed stays silent', async () => {
  const lease = openLease(20, performance.now());
  lease.close();
  await sleep(40);
  expect(lease.signal.aborted).toBe(false);
});
