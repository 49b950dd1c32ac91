/** A day's course under several policies as an SVG: GPUs that are paid for, and the work that is left. */
import type { Day } from './day.ts';

export interface Line {
  name: string;
  colour: string;
  course: Day['course'];
}

const size = { width: 960, height: 540, left: 64, right: 28, top: 48, panel: 200, gap: 64 };
const inner = size.width - size.left - size.right;
const daySeconds = 86_400;

export function drawChart(title: string, lines: readonly Line[]): string {
  const panels = [
    { name: 'GPUs that are paid for', of: (at: Day['course'][number]) => at.nodes },
    { name: 'work that is left, GPU-hours', of: (at: Day['course'][number]) => at.leftWorkerSeconds / 3_600 },
  ];
  const body = panels.map(({ name, of }, row) => {
    const top = size.top + row * (size.panel + size.gap);
    const most = niceCeiling(Math.max(...lines.flatMap(({ course }) => course.map(of))));
    const x = (second: number): number => size.left + (inner * second) / daySeconds;
    const y = (value: number): number => top + size.panel * (1 - value / most);
    const grid = [0, 0.25, 0.5, 0.75, 1].map((share) => {
      const at = y(share * most).toFixed(1);
      return `<line x1="${size.left}" x2="${size.width - size.right}" y1="${at}" y2="${at}" class="grid"/><text x="${size.left - 8}" y="${at}" dy="4" text-anchor="end">${share * most}</text>`;
    });
    const hours = [0, 4, 8, 12, 16, 20, 24].map(
      (hour) =>
        `<text x="${x(hour * 3_600).toFixed(1)}" y="${top + size.panel + 18}" text-anchor="middle">${String(hour).padStart(2, '0')}:00</text>`,
    );
    const paths = lines.map(({ colour, course }) => {
      const points = course
        .filter(({ second }) => second <= daySeconds)
        .map((at, n) => `${n === 0 ? 'M' : 'L'}${x(at.second).toFixed(1)} ${y(of(at)).toFixed(1)}`);
      return `<path d="${points.join('')}" stroke="${colour}"/>`;
    });
    return `<text x="${size.left}" y="${top - 10}" class="name">${name}</text>${grid.join('')}${hours.join('')}${paths.join('')}`;
  });
  const legend = lines.map(({ name, colour }, n) => {
    const x = 360 + 200 * n;
    return `<rect x="${x}" y="30" width="18" height="4" fill="${colour}"/><text x="${x + 24}" y="37">${name}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size.width} ${size.height}" role="img" aria-label="${title}">
<style>text{font:12px system-ui,sans-serif;fill:#444}.name{font-weight:600;fill:#222}.grid{stroke:#ddd}path{fill:none;stroke-width:1.5;stroke-linejoin:round}</style>
<rect width="100%" height="100%" fill="#fff"/>
${legend.join('\n')}
${body.join('\n')}
</svg>
`;
}

/** A round number above, that four divides into round ones. */
function niceCeiling(value: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.2, 1.6, 2, 4, 8, 10].map((step) => step * power).find((step) => step >= value) ?? value;
}
