/** Which addresses a list can make a worker read: none but public ones, however they are written and whoever names them. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { expect, test } from 'vitest';
import { isPublic, openGuard, type Resolve } from '../src/objects/address-guard.ts';

/** Every name is at these addresses. */
function at(...addresses: string[]): Resolve {
  return (_host, _options, done) =>
    done(
      null,
      addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
    );
}

function lookUp(host: string, port: number, allowHosts: string[], resolve: Resolve): Promise<unknown> {
  const { promise, resolve: give, reject } = Promise.withResolvers<unknown>();
  openGuard(allowHosts, resolve).lookup(port)(host, { all: true }, (error, found) =>
    error ? reject(error) : give(found),
  );
  return promise;
}

const isAllowed = (allowHosts: string[], host: string, port: number, address: string): boolean => {
  try {
    openGuard(allowHosts).check(host, port, address);
    return true;
  } catch (error) {
    expect(error).toMatchObject({ name: 'ReadError', code: 'not-allowed', transient: false });
    return false;
  }
};

test('addresses that mean the same machine everywhere are public', () => {
  for (const address of ['8.8.8.8', '93.184.215.14', '172.32.0.1', '2606:4700::1111', '2a00:1450:4001::1'])
    expect([address, isPublic(address)]).toEqual([address, true]);
});

test('no other address is public', () => {
  const others = {
    loopback: ['127.0.0.1', '127.255.255.254', '::1'],
    private: [
      '10.0.0.1',
      '172.16.0.1',
      '172.31.255.255',
      '192.168.1.1',
      'fd12:3456::1',
      'fc00::1',
      'fec0::1',
    ],
    metadata: ['169.254.169.254', 'fd00:ec2::254', '100.100.100.200'],
    linkLocal: ['169.254.0.1', 'fe80::1', 'fe80::1%eth0'],
    carrier: ['100.64.0.1', '100.127.255.255'],
    nowhere: ['0.0.0.0', '0.1.2.3', '::', '255.255.255.255', '100::1'],
    multicast: ['224.0.0.1', '239.1.1.1', 'ff02::1'],
    reserved: ['240.0.0.1', '192.0.0.8', '192.88.99.1', '4000::1', 'e000::1', '5f00::1'],
    measuring: ['198.18.0.1', '198.19.255.255', '2001:2::1'],
    documentation: ['192.0.2.1', '198.51.100.1', '203.0.113.1', '2001:db8::1', '3fff::1'],
    ipv4InDisguise: [
      '::ffff:127.0.0.1', '::ffff:8.8.8.8', '::ffff:7f00:1', '::127.0.0.1', '::ffff:0:127.0.0.1',
      '64:ff9b::10.0.0.1', '64:ff9b:1::1', '2002:7f00:1::1', '2001:0:7f00:1::1',
    ], // biome-ignore format: a table
    noAddress: ['', 'localhost', '127.1', '2130706433', '0177.0.0.1', '8.8.8.8:80', '[::1]'],
  };
  for (const address of Object.values(others).flat())
    expect([address, isPublic(address)]).toEqual([address, false]);
});

test('a name that is allowed may be at any address, on any port or on its own', () => {
  expect(isAllowed(['images.local'], 'images.local', 8080, '10.0.0.1')).toBe(true);
  expect(isAllowed(['IMAGES.local.'], 'images.local', 80, '10.0.0.1')).toBe(true);
  expect(isAllowed(['images.local'], 'images.local.', 80, '10.0.0.1')).toBe(true);
  expect(isAllowed(['images.local:8080'], 'images.local', 8080, '::1')).toBe(true);
  expect(isAllowed(['images.local:80'], 'images.local', 80, '::1')).toBe(true);
  expect(isAllowed(['bücher.local'], 'xn--bcher-kva.local', 80, '::1')).toBe(true);
  expect(isAllowed(['images.local:8080'], 'images.local', 80, '::1')).toBe(false);
  expect(isAllowed(['images.local:80'], 'images.local', 8080, '::1')).toBe(false);
  expect(isAllowed(['images.local'], 'x.images.local', 80, '::1')).toBe(false);
  expect(isAllowed(['images.local'], 'images.local.evil.example', 80, '::1')).toBe(false);
});

test('an address or a range that is allowed may be reached by whatever name leads there, and no other', () => {
  for (const entry of ['127.0.0.1', '127.1', '2130706433', '127.0.0.1:8080', '127.0.0.0/8'])
    expect(isAllowed([entry], 'some.name', 8080, '127.0.0.1')).toBe(true);
  for (const entry of ['::1', '[::1]', '[0:0::1]:8080', '::/64'])
    expect(isAllowed([entry], 'some.name', 8080, '::1')).toBe(true);
  expect(isAllowed(['127.0.0.1:8080'], '127.0.0.1', 22, '127.0.0.1')).toBe(false);
  expect(isAllowed(['10.0.0.0/8'], 'some.name', 80, '169.254.169.254')).toBe(false);
  expect(isAllowed(['127.0.0.1'], '::ffff:7f00:1', 80, '::ffff:7f00:1')).toBe(false);
  expect(isAllowed(['0.0.0.0/0'], 'some.name', 80, '::1')).toBe(false);
});

test('what is no host is refused when the program starts', () => {
  for (const entry of [
    '', 'http://images.local', 'images.local/x', 'u:p@images.local', '*.local', '[::1', 'a b', 'a:b', '10.0.0.0/33', '256.1.1.1',
  ]) // biome-ignore format: a table
    expect(() => openGuard([entry]), entry).toThrow(
      expect.objectContaining({ name: 'ConfigError', code: 'bad-host' }),
    );
});

test('a refusal names host, address and what to type', () => {
  expect(() => openGuard([]).check('images.local', 80, '10.0.0.1')).toThrow(
    'images.local is at 10.0.0.1, no public address: --allow-host images.local lets it be read',
  );
  expect(() => openGuard([]).check('[::1]', 80, '::1')).toThrow(
    '::1 is no public address: --allow-host ::1 lets it be read',
  );
});

test('a name with a public and a private address is refused', async () => {
  expect(await lookUp('good.example', 80, [], at('8.8.8.8', '2606:4700::1111'))).toHaveLength(2);
  await expect(lookUp('mixed.example', 80, [], at('8.8.8.8', '10.0.0.1'))).rejects.toMatchObject({
    code: 'not-allowed',
  });
  expect(await lookUp('mixed.example', 80, ['10.0.0.1'], at('8.8.8.8', '10.0.0.1'))).toHaveLength(2);
});

test('a name server that changes its mind cannot move a connection: the address that was checked is the one used', async () => {
  const server = createServer((socket) => socket.end()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  let asked = 0;
  const resolve: Resolve = (...args) => at(asked++ === 0 ? '127.0.0.1' : '127.0.0.2')(...args);
  const lookup = openGuard([`127.0.0.1:${port}`], resolve).lookup(port);
  for (const autoSelectFamily of [true, false]) {
    asked = 0;
    const socket = connect({ host: 'moving.example', port, lookup, autoSelectFamily });
    await once(socket, 'connect');
    expect(socket.remoteAddress).toBe('127.0.0.1');
    expect(asked).toBe(1);
    socket.destroy();
  }
  const again = connect({ host: 'moving.example', port, lookup });
  await expect(once(again, 'connect')).rejects.toMatchObject({ code: 'not-allowed' });
  server.close();
});
