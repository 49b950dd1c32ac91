/** A throw-away certificate authority and what it signs, by openssl, in a temporary folder. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { tempFolder } from './temp.ts';

/** Paths of PEM files. */
export interface Certificate {
  cert: string;
  key: string;
}

export interface Authority extends Certificate {
  /** `names` in openssl's words: 'DNS:redis.internal,IP:127.0.0.1'. `days` that it is valid; -1: it was until yesterday. */
  sign(names: string, options?: { days?: number }): Certificate;
}

export function makeAuthority(): Authority {
  const folder = tempFolder();
  const openssl = (...args: string[]): void =>
    void execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-noenc'];
  const subject = ['-subj', '/CN=throw-away'];
  openssl('req', '-x509', ...newKey, ...subject, '-keyout', 'ca.key', '-out', 'ca.pem');
  const pathsOf = (name: string): Certificate => ({
    cert: join(folder, `${name}.pem`),
    key: join(folder, `${name}.key`),
  });
  const ca = pathsOf('ca');
  let signed = 0;
  return {
    ...ca,
    sign(names, { days = 1 } = {}) {
      const { cert, key } = pathsOf(String(signed++));
      const by = ['-CA', ca.cert, '-CAkey', ca.key, '-days', String(days), '-copy_extensions', 'copy'];
      openssl(
        'req',
        ...newKey,
        ...subject,
        '-addext',
        `subjectAltName=${names}`,
        '-keyout',
        key,
        '-out',
        `${cert}.csr`,
      );
      openssl('x509', '-req', '-in', `${cert}.csr`, ...by, '-out', cert);
      return { cert, key };
    },
  };
}
