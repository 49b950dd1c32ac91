import { expect, test } from 'vitest';
import { hidePasswords, parseRedisAddress, type RedisAddress, redisPlace } from '../src/redis/address.ts';
import { resolveSettings } from '../src/settings/resolve.ts';

const addresses: Record<string, RedisAddress> = {
  'redis://queue': { kind: 'server', node: { host: 'queue', port: 6379 }, db: 0 },
  'redis://queue/': { kind: 'server', node: { host: 'queue', port: 6379 }, db: 0 },
  'redis://:p%2Fs%20s+@queue:6380/3': {
    kind: 'server',
    login: { password: 'p/s s+' },
    node: { host: 'queue', port: 6380 },
    db: 3,
  },
  'redis://lens:pa:ss@w@[::1]:6380': {
    kind: 'server',
    login: { username: 'lens', password: 'pa:ss@w' },
    node: { host: '::1', port: 6380 },
    db: 0,
  },
  'rediss://queue?ca=/etc/ca+1.pem&cert=me.pem&key=me.key&servername=redis.internal': {
    kind: 'server',
    node: { host: 'queue', port: 6379 },
    db: 0,
    tls: { ca: '/etc/ca+1.pem', cert: 'me.pem', key: 'me.key', servername: 'redis.internal' },
  },
  'redis-sentinel://lens:secret@a,b:26380,c/main/2?sentinel-user=watch&sentinel-password=other': {
    kind: 'sentinel',
    login: { username: 'lens', password: 'secret' },
    sentinels: [
      { host: 'a', port: 26379 },
      { host: 'b', port: 26380 },
      { host: 'c', port: 26379 },
    ],
    name: 'main',
    db: 2,
    sentinelLogin: { username: 'watch', password: 'other' },
  },
  'rediss-sentinel://a/main?sentinel-password=other': {
    kind: 'sentinel',
    sentinels: [{ host: 'a', port: 26379 }],
    name: 'main',
    db: 0,
    sentinelLogin: { password: 'other' },
    tls: {},
  },
  'rediss-cluster://:secret@a:7000,b:7001?ca=ca.pem': {
    kind: 'cluster',
    login: { password: 'secret' },
    nodes: [
      { host: 'a', port: 7000 },
      { host: 'b', port: 7001 },
    ],
    tls: { ca: 'ca.pem' },
  },
  '/run/redis.sock?db=2': { kind: 'socket', path: '/run/redis.sock', db: 2 },
  'unix://lens:secret@/run/redis.sock': {
    kind: 'socket',
    login: { username: 'lens', password: 'secret' },
    path: '/run/redis.sock',
    db: 0,
  },
};

test.each(Object.entries(addresses))('%s is read', (text, address) => {
  expect(parseRedisAddress(text)).toEqual(address);
  expect(resolveSettings({ redis: text }, {}, {}).values.redis).toBe(text);
});

const mistakes: Record<string, RegExp> = {
  'queue:6379': /there are redis:\/\/host/,
  'http://queue': /no scheme 'http'/,
  'redis://': /expected host/,
  'redis://queue:0': /expected host/,
  'redis://queue:x': /expected host/,
  'redis://a,b': /redis-sentinel:\/\/ and redis-cluster:\/\//,
  'redis://queue/one': /a number/,
  'redis://queue/1/2': /nothing stands behind/,
  'redis://queue?ca=ca.pem': /\?ca is not known for redis:/,
  'rediss://queue?cert=me.pem': /go together/,
  'rediss://queue?ca=': /has no value/,
  'rediss://queue?insecure=1': /\?insecure is not known/,
  'redis://secret@queue': /:password@/,
  'redis://lens:se/cret@queue': /%2F/,
  'redis://lens:se%cret@queue': /%25/,
  'redis-sentinel://a,b': /name/,
  'redis-sentinel://a/main?sentinel-user=u': /sentinel-password/,
  'redis-cluster://a/1': /one database/,
  'unix://host/run/redis.sock': /absolute path/,
};

test.each(Object.entries(mistakes))(
  '%s is refused with what to write, and shows no password',
  (text, why) => {
    const thrown = (): unknown => parseRedisAddress(text);
    expect(thrown).toThrow(
      expect.objectContaining({ code: 'bad-redis-address', message: expect.stringMatching(why) }),
    );
    expect(thrown).toThrow(expect.objectContaining({ message: expect.not.stringMatching(/cret/) }));
    expect(() => resolveSettings({ redis: text }, {}, {})).toThrow(
      expect.objectContaining({ code: 'bad-setting', message: expect.not.stringMatching(/cret/) }),
    );
  },
);

test('no password is printed, of whatever form', () => {
  expect(hidePasswords('redis-sentinel://lens:a@b@h1,h2/main?sentinel-user=u&sentinel-password=c&db=1')).toBe(
    'redis-sentinel://lens:***@h1,h2/main?sentinel-user=u&sentinel-password=***&db=1',
  );
  expect(hidePasswords('unix://:secret@/run/redis.sock')).toBe('unix://:***@/run/redis.sock');
  expect(redisPlace('rediss-cluster://lens:a@b@h1,h2?ca=/ca.pem')).toBe('rediss-cluster://h1,h2');
});
