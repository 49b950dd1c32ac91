/** Archives, as Python's own modules and the usual tools write them. */
import { execFileSync } from 'node:child_process';
import { gzipSync, zstdCompressSync } from 'node:zlib';

export type Extension = '.tar' | '.tar.gz' | '.tar.zst' | '.zip';

/** Names are text; members are in the order given, and a name may come twice. */
export function makeArchive(extension: Extension, members: readonly (readonly [string, string])[]): Buffer {
  const base = extension === '.zip' ? '.zip' : '.tar';
  const script = base === '.zip' ? zipScript : tarScript;
  const json = JSON.stringify(members);
  const archive = made.get(base + json) ?? run('python3', ['-c', script], json);
  made.set(base + json, archive);
  if (extension === '.tar.gz') return gzipSync(archive);
  if (extension === '.tar.zst') return zstdCompressSync(archive);
  return archive;
}

/** A Python takes 100 ms to start, and the same archive is packed and put in several ways. */
const made = new Map<string, Buffer>();

function run(command: string, args: string[], input: string | Buffer): Buffer {
  return execFileSync(command, args, { input, maxBuffer: 2 ** 30, stdio: ['pipe', 'pipe', 'ignore'] });
}

const tarScript = `
import io, json, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode='w|') as tar:
    for name, content in json.load(sys.stdin):
        member = tarfile.TarInfo(name)
        member.size = len(content.encode())
        tar.addfile(member, io.BytesIO(content.encode()))`;

const zipScript = `
import io, json, sys, zipfile
out = io.BytesIO()
with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as zip:
    for name, content in json.load(sys.stdin):
        zip.writestr(name, content)
sys.stdout.buffer.write(out.getvalue())`;
