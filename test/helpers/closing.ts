import { afterEach } from 'vitest';

/** For the top of a test file: what it gives back takes what is to be closed after the test, twice, as a contract allows. */
export function closeAfterEach<T extends { close(): Promise<void> }>(): <Member extends T>(
  opened: Member,
) => Member {
  const all: T[] = [];
  afterEach(async () => {
    for (const opened of all.splice(0)) {
      await opened.close();
      await opened.close();
    }
  });
  return (opened) => {
    all.push(opened);
    return opened;
  };
}
