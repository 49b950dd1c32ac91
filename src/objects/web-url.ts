/**
 * URLs of the web: what is taken for one, and how one is shown. A URL can hold a password, or a signature that is as good as
 * one, and whatever is logged or thrown is read by more people than may use it.
 */
import { ReadError } from '../sources/source.ts';

/** Throws ReadError 'bad-uri' for whatever is not http: or https:. */
export function parseWebUrl(text: string): URL {
  const url = URL.parse(text); // `new URL` would throw an error that carries the text
  const shown = shownUrl(text);
  if (!url) throw new ReadError('bad-uri', `'${shown}' is no URL`);
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw new ReadError('bad-uri', `'${shown}' is neither http: nor https:`);
  return url;
}

/** 'https://USER:PASSWORD@host/…'. A list with such lines cannot be planned: the plan would hold the password. */
export function hasCredentials(uri: string): boolean {
  const url = URL.parse(uri);
  return url !== null && (url.username !== '' || url.password !== '');
}

/**
 * A URI as it may be shown to anybody: without USER:PASSWORD@, and with '***' for the values of query parameters that give
 * access (signatures, tokens, keys). The rest stays as it was written; so do paths, `file:` and `s3:` URIs, where '?' and '@'
 * are characters like others. Of an archive's member, give it the archive's URI only: a signature would swallow the name.
 */
export function publicUrl(uri: string): string {
  const oneLine = uri.replace(/[\t\n\r]/g, ''); // as the URL parser does
  if (!/^\W*(?!(?:file|s3):)[a-z][a-z0-9+.-]*:/i.test(oneLine)) return uri;
  return oneLine
    .replace(/^(\W*[a-z][a-z0-9+.-]*:[/\\]*)[^/\\?#]*@/i, '$1')
    .replace(/([?&;#])([^=&;#]+)=[^&;#]*/g, (pair, mark, name) =>
      isSecret(name) ? `${mark}${name}=***` : pair,
    );
}

/** The same for a message: a list may hold a URL of a megabyte. */
export function shownUrl(uri: string): string {
  return publicUrl(uri).slice(0, 500);
}

/** Of AWS, Google, Azure, CloudFront and Akamai, and what others commonly use. */
const secretNames =
  /^(x-(amz|goog)-(signature|credential|security-token)|awsaccesskeyid|googleaccessid|signature|sig|hmac|hdn(ea|ts)|policy|.*token.*|.*secret.*|.*passw(or)?d|pwd|auth|authorization|(.*[-_])?key|apikey|session(id)?|jwt|code)$/i;

function isSecret(name: string): boolean {
  try {
    return secretNames.test(decodeURIComponent(name));
  } catch {
    return true; // whatever a server makes of it
  }
}
