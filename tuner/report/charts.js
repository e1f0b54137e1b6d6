// Small drawings: lines over time, and a schedule as a strip.

import { element, svg, ticks } from "./elements.js";

const FRAME = { left: 46, right: 30, top: 24, bottom: 40 };
const WIDEST_PX = 720;
const STRIP = { width: 200, height: 34, ticks: 5 };
// A strip's steps are letters, this one for its first kind.
const FIRST_LETTER = "0".charCodeAt(0);

// host: whose width it gets. series: {points: [[x, y], ...], name: classes, letter: shown at the line's end, isStepped}.
export function lineChart(host, label, xName, yName, series) {
  const width = Math.min(WIDEST_PX, host.clientWidth);
  const height = Math.round(Math.max(220, 0.38 * width));
  const all = series.flatMap((one) => one.points);
  const range = (axis) => [Math.min(...all.map((point) => point[axis])), Math.max(...all.map((point) => point[axis]))];
  const [right, [low, high]] = [range(0)[1] || 1, range(1)];
  const span = high - low || 0.02;
  const bottom = height - FRAME.bottom;
  const x = (value) => FRAME.left + (value / right) * (width - FRAME.left - FRAME.right);
  const y = (value) => bottom - ((value - low + 0.05 * span) / (1.1 * span)) * (bottom - FRAME.top);
  const grid = [
    ...ticks(0, right, width < 500 ? 5 : 8).flatMap(({ value, text }) => [
      svg("line", { class: "grid", x1: x(value), x2: x(value), y1: FRAME.top, y2: bottom }),
      svg("text", { x: x(value), y: bottom + 17, "text-anchor": "middle" }, text),
    ]),
    ...ticks(low, low + span, 5).flatMap(({ value, text }) => [
      svg("line", { class: "grid", x1: FRAME.left, x2: width - FRAME.right, y1: y(value), y2: y(value) }),
      svg("text", { x: FRAME.left - 6, y: y(value) + 4, "text-anchor": "end" }, text),
    ]),
    svg("text", { class: "name", x: width - FRAME.right, y: height - 6, "text-anchor": "end" }, xName),
    svg("text", { class: "name", x: 2, y: 13 }, yName),
  ];
  const size = { viewBox: `0 0 ${width} ${height}`, width, height, class: "chart", role: "img", "aria-label": label };
  return svg("svg", size, ...grid, ...series.flatMap((one) => drawnLine(one, x, y)));
}

function drawnLine({ points, name, letter, isStepped }, x, y) {
  if (!points.length) return [];
  const corner = ([px, py], place) => (place === 0 ? `M${x(px)},${y(py)}` : isStepped ? `H${x(px)}V${y(py)}` : `L${x(px)},${y(py)}`);
  const [lastX, lastY] = points[points.length - 1];
  const dots = isStepped ? [] : points.map(([px, py]) => svg("circle", { class: `${name} dot`, cx: x(px), cy: y(py), r: 2.4 }));
  const end = letter ? [svg("text", { class: "letter", x: x(lastX) + 7, y: y(lastY) + 4 }, letter)] : [];
  return [svg("path", { class: `${name} line`, d: points.map(corner).join("") }), ...dots, ...end];
}

// Every step as a bar as high as its side; a tick below where kernels are pooled.
export function stripFigure(strip, fullPx) {
  const paths = strip.kinds.map(() => "");
  const counts = strip.kinds.map(() => 0);
  let pooled = "";
  const bottom = STRIP.height - STRIP.ticks;
  for (let start = 0; start < strip.steps.length; ) {
    const kind = strip.steps.charCodeAt(start) - FIRST_LETTER;
    let end = start + 1;
    while (end < strip.steps.length && strip.steps[end] === strip.steps[start]) end += 1;
    const [side, isPooled] = strip.kinds[kind];
    paths[kind] += `M${start},${bottom}h${end - start}v${(-bottom * side) / fullPx}H${start}Z`;
    if (isPooled) pooled += `M${start},${STRIP.height}h${end - start}v${2 - STRIP.ticks}H${start}Z`;
    counts[kind] += end - start;
    start = end;
  }
  const words = strip.kinds.map(([side, isPooled], kind) => {
    const share = `${Math.round((100 * counts[kind]) / strip.steps.length)} % of steps`;
    return `${share} at ${side} px${isPooled ? ", kernels pooled" : ""}`;
  });
  const drawn = [
    ...strip.kinds.map(([side], kind) => svg("path", { class: sideClass(side / fullPx), d: paths[kind] })),
    pooled ? svg("path", { class: "pooled", d: pooled }) : null,
  ];
  const size = { viewBox: `0 0 ${STRIP.width} ${STRIP.height}`, preserveAspectRatio: "none", class: "strip", role: "img" };
  const axis = element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, "start"), element("span", {}, "end of training"));
  const caption = element("figcaption", {}, words.slice(0, 6).join("; ") + (words.length > 6 ? "; …" : ""));
  return element("figure", {}, svg("svg", { ...size, "aria-label": `Schedule: ${words.join("; ")}` }, ...drawn), axis, caption);
}

function sideClass(share) {
  return share >= 1 ? "side-full" : `side-${Math.min(3, Math.floor(4 * share))}`;
}
