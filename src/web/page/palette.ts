/**
 * Colours and shapes of the labels on the map. The colours are those of Okabe and Ito, which people tell apart whatever colours they
 * see (https://jfly.uni-koeln.de/color/), but for one in each theme that would vanish in its background; shapes say the same again.
 */
import type { Theme } from './theme.ts';

export type Shape = 'circle' | 'square' | 'triangle' | 'diamond' | 'wedge' | 'plus' | 'cross' | 'bar';

const shapes: readonly Shape[] = ['circle', 'square', 'triangle', 'diamond', 'wedge', 'plus', 'cross', 'bar'];

const colours: Record<Theme, readonly string[]> = {
  light: ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#7a5195'],
  dark: ['#56b4e9', '#e69f00', '#009e73', '#cc79a7', '#f0e442', '#d55e00', '#ffffff', '#3b8fd0'],
};

/** Labels that have a colour of their own; the others are grey circles. */
export const colouredLabels = shapes.length;

export interface Look {
  colour: string;
  shape: Shape;
}

/** `rank`: 0 is the most frequent label; undefined where the label has no colour of its own. */
export function lookOf(rank: number | undefined, theme: Theme): Look {
  const colour = rank === undefined ? undefined : colours[theme][rank];
  const shape = rank === undefined ? undefined : shapes[rank];
  return colour && shape
    ? { colour, shape }
    : { colour: theme === 'dark' ? '#6d717c' : '#a9acb5', shape: 'circle' };
}

/** A shape around 0,0, as SVG and canvas paths take it; `r` is about its radius. */
export function pathOf(shape: Shape, r: number): string {
  const s = r * 0.9;
  switch (shape) {
    case 'circle':
      return `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;
    case 'square':
      return `M${-s} ${-s}h${2 * s}v${2 * s}h${-2 * s}z`;
    case 'triangle':
      return `M0 ${-r * 1.2}L${r * 1.1} ${r * 0.8}H${-r * 1.1}z`;
    case 'wedge':
      return `M0 ${r * 1.2}L${r * 1.1} ${-r * 0.8}H${-r * 1.1}z`;
    case 'diamond':
      return `M0 ${-r * 1.3}L${r * 1.1} 0 0 ${r * 1.3} ${-r * 1.1} 0z`;
    case 'plus':
      return `M${-r / 2.4} ${-r * 1.2}h${r / 1.2}v${r * 1.2 - r / 2.4}h${r * 1.2 - r / 2.4}v${r / 1.2}h${-(r * 1.2 - r / 2.4)}v${r * 1.2 - r / 2.4}h${-r / 1.2}v${-(r * 1.2 - r / 2.4)}h${-(r * 1.2 - r / 2.4)}v${-r / 1.2}h${r * 1.2 - r / 2.4}z`;
    case 'cross':
      return `M${-s} ${-s * 0.4}L${-s * 0.4} ${-s} 0 ${-s * 0.5} ${s * 0.4} ${-s} ${s} ${-s * 0.4} ${s * 0.5} 0 ${s} ${s * 0.4} ${s * 0.4} ${s} 0 ${s * 0.5} ${-s * 0.4} ${s} ${-s} ${s * 0.4} ${-s * 0.5} 0z`;
    case 'bar':
      return `M${-r * 1.2} ${-r * 0.5}h${r * 2.4}v${r}h${-r * 2.4}z`;
  }
}
