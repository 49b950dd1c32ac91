/** The keys, and what a score is. */
import { Dialog } from './dialog.tsx';

const keys: [string[], string][] = [
  [['←', '→', '↑', '↓'], 'move among pictures'],
  [['Enter'], 'search by the picture'],
  [['a'], 'add it to what is searched by: the average counts'],
  [['w'], 'why it was found; in the archive, its details'],
  [['k', 'r'], 'duplicates: mark to keep, to remove'],
  [['+', '−', '0'], 'map: nearer, farther, all of it'],
  [['/'], 'to the filters'],
  [['Esc'], 'close'],
  [['?'], 'this list'],
];

export function Help({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keys" onClose={onClose}>
      <dl class="keys">
        {keys.map(([names, text]) => (
          <div key={text}>
            <dt>
              {names.map((name) => (
                <kbd key={name}>{name}</kbd>
              ))}
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <p class="muted">
        A score is the cosine of two embeddings, 1 at most. A view's address holds all of it but dropped
        pictures: share it, and Back works.
      </p>
    </Dialog>
  );
}
