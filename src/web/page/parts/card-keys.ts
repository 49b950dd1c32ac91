/** Keys on a list of cards, of which one has the focus. */

/** `acts` by key: what is done to the image of the card. Of other keys, arrows, Home and End move the focus. */
export function onCardKey(
  event: KeyboardEvent,
  list: HTMLElement | null,
  acts: Readonly<Record<string, (image: string) => void>>,
): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const card = event.target instanceof Element ? event.target.closest<HTMLElement>('.card') : null;
  const image = card?.dataset.key;
  if (!card || !image) return;
  const act = Object.hasOwn(acts, event.key) ? acts[event.key] : undefined;
  if (act) act(image);
  else {
    const next = cardTowards([...(list?.querySelectorAll<HTMLElement>('.card') ?? [])], card, event.key);
    if (!next) return;
    next.querySelector('a')?.focus();
    next.scrollIntoView({ block: 'nearest' });
  }
  event.preventDefault();
}

/** The card that an arrow key, Home or End leads to; up and down to the one that is most nearly above or below. */
function cardTowards(cards: readonly HTMLElement[], from: HTMLElement, key: string): HTMLElement | undefined {
  const at = cards.indexOf(from);
  if (key === 'ArrowRight') return cards[at + 1];
  if (key === 'ArrowLeft') return cards[at - 1];
  if (key === 'Home') return cards[0];
  if (key === 'End') return cards.at(-1);
  if (key !== 'ArrowDown' && key !== 'ArrowUp') return undefined;
  const beyond =
    key === 'ArrowDown'
      ? cards.find(({ offsetTop }) => offsetTop > from.offsetTop)
      : cards.findLast(({ offsetTop }) => offsetTop < from.offsetTop);
  const middleOf = ({ offsetLeft, offsetWidth }: HTMLElement): number => offsetLeft + offsetWidth / 2;
  const distanceTo = (card: HTMLElement): number => Math.abs(middleOf(card) - middleOf(from));
  return cards
    .filter(({ offsetTop }) => offsetTop === beyond?.offsetTop)
    .toSorted((a, b) => distanceTo(a) - distanceTo(b))[0];
}
