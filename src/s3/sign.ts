/**
 * Signature Version 4 for a GET. The SDK's own signer takes several times as long (test/bench/read.ts): it serves every
 * kind of request. The formula, and the example that the tests hold this to:
 * https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
 */
import { createHmac, createSecretKey, hash, type KeyObject } from 'node:crypto';

export interface SigningKeys {
  accessKeyId: string;
  secretAccessKey: string;
  /** Of credentials that expire. */
  sessionToken?: string | undefined;
}

export interface UnsignedGet {
  /** Escaped, as it is sent; without a query. */
  path: string;
  /** 'host' among them. Names in lower case, values of visible ASCII: others would have to be rewritten. */
  headers: Record<string, string>;
  /** 'us-east-1/s3'. */
  regionAndService: string;
}

/** Gives the headers to send, every one of them signed. */
export type SignGet = (get: UnsignedGet, keys: SigningKeys, now: Date) => Record<string, string>;

/** SHA-256 of no body. */
const noBody = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

/** Derives a key once for a day, region and secret. */
export function openSigner(): SignGet {
  let held: { secret: string; scope: string; key: KeyObject } | undefined;
  const keyOf = (secret: string, scope: string): KeyObject => {
    if (held?.secret !== secret || held.scope !== scope)
      held = { secret, scope, key: deriveKey(secret, scope) };
    return held.key;
  };

  return (
    { path, headers: given, regionAndService },
    { accessKeyId, secretAccessKey, sessionToken },
    now,
  ) => {
    const time = now.toISOString().replace(/[-:]|\.\d+/g, '');
    const scope = `${time.slice(0, 8)}/${regionAndService}/aws4_request`;
    const headers: Record<string, string> = {
      ...given,
      'x-amz-content-sha256': noBody,
      'x-amz-date': time,
      ...(sessionToken && { 'x-amz-security-token': sessionToken }),
    };
    const names = Object.keys(headers).sort();
    const lines = names.map((name) => `${name}:${headers[name]}\n`).join('');
    const signed = names.join(';');
    const request = `GET\n${path}\n\n${lines}\n${signed}\n${noBody}`;
    const signature = createHmac('sha256', keyOf(secretAccessKey, scope))
      .update(`AWS4-HMAC-SHA256\n${time}\n${scope}\n${hash('sha256', request)}`)
      .digest('hex');
    headers.authorization = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, SignedHeaders=${signed}, Signature=${signature}`;
    return headers;
  };
}

function deriveKey(secret: string, scope: string): KeyObject {
  let key = Buffer.from(`AWS4${secret}`);
  for (const part of scope.split('/')) key = createHmac('sha256', key).update(part).digest();
  // Imported once. For a key given as bytes, Node does so at each HMAC: 12 µs instead of 2.
  return createSecretKey(key);
}
