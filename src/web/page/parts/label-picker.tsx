/** Chooses a label by typing some of its name: a combobox over the labels that the archive has, the most frequent first. */
import { useId, useState } from 'preact/hooks';
import type { LabelCounts } from '../../api.ts';
import { count } from '../format.ts';

const maxOptions = 10;

export function LabelPicker({ counts, onPick }: { counts: LabelCounts; onPick: (label: number) => void }) {
  const [text, setText] = useState('');
  const [isOpen, setOpen] = useState(false);
  const [active, setActive] = useState(0);
  const id = useId();
  const options = findLabels(counts, text);

  function pick(at: number): void {
    const option = options[at];
    if (!option) return;
    setText('');
    setOpen(false);
    onPick(option.label);
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      setActive(
        (at) => (at + (event.key === 'ArrowDown' ? 1 : -1) + options.length) % Math.max(1, options.length),
      );
      setOpen(true);
    } else if (event.key === 'Enter' && isOpen) pick(active);
    else if (event.key === 'Escape' && isOpen) setOpen(false);
    else return;
    event.preventDefault();
  }

  const isShown = isOpen && options.length > 0;
  return (
    <div class="field combobox">
      <label for={`${id}-input`}>Label</label>
      <input
        id={`${id}-input`}
        data-first-filter
        type="text"
        role="combobox"
        autocomplete="off"
        spellcheck={false}
        placeholder="cat, seashore …"
        aria-expanded={isShown}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={isShown ? `${id}-${active}` : undefined}
        value={text}
        onInput={({ currentTarget }) => {
          setText(currentTarget.value);
          setActive(0);
          setOpen(true);
        }}
        onFocus={() => setOpen(true)}
        onBlur={() => setOpen(false)}
        onKeyDown={onKeyDown}
      />
      <div id={`${id}-list`} role="listbox" aria-label="Labels" class="options" hidden={!isShown}>
        {options.map(({ label, name, count: images }, at) => (
          // biome-ignore lint/a11y/useKeyWithClickEvents lint/a11y/useFocusableInteractive: keys go to the input
          <div
            key={label}
            id={`${id}-${at}`}
            role="option"
            aria-selected={at === active}
            class="option"
            onMouseDown={(event) => event.preventDefault()}
            onClick={() => pick(at)}
          >
            <span>{name}</span>
            <span class="option-count">{count(images)}</span>
          </div>
        ))}
      </div>
    </div>
  );
}

/** Names that begin with the text come before those of which a later word does. */
function findLabels(counts: LabelCounts, text: string): LabelCounts {
  const sought = text.trim().toLowerCase();
  if (!sought) return counts.slice(0, maxOptions);
  const begins = counts.filter(({ name }) => name.toLowerCase().startsWith(sought));
  const within = counts.filter(
    ({ name }) => !begins.some((one) => one.name === name) && hasWord(name, sought),
  );
  return [...begins, ...within].slice(0, maxOptions);
}

const hasWord = (name: string, start: string): boolean =>
  name
    .toLowerCase()
    .split(/[\s-]+/)
    .some((_, at, words) => words.slice(at).join(' ').startsWith(start));
