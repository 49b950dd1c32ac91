/** The end of a list that goes on: the next page is asked for before it comes into sight, or with the button. */
import { useEffect, useRef } from 'preact/hooks';

export function More({ isLoading, more }: { isLoading: boolean; more: () => void }) {
  const button = useRef<HTMLButtonElement>(null);
  const latest = useRef(more);
  latest.current = more;
  useEffect(() => {
    if (isLoading || !button.current) return;
    const watch = new IntersectionObserver(([entry]) => entry?.isIntersecting && latest.current(), {
      rootMargin: '900px',
    });
    watch.observe(button.current);
    return () => watch.disconnect();
  }, [isLoading]);
  return (
    <div class="more">
      <button ref={button} type="button" class="button" disabled={isLoading} onClick={more}>
        {isLoading ? 'Loading …' : 'Show more'}
      </button>
    </div>
  );
}
