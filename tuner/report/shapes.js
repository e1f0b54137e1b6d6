// How each kind of trial is drawn: shapes differ as well as colours. The paths serve the canvas, the drawing and the legend.

const circle = (r) => `M${-r},0a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0Z`;
const diamond = (r) => `M0,${-r}L${r},0L0,${r}L${-r},0Z`;
const cross = (r) => `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`;

function star(r) {
  const corner = (place) => {
    const angle = (Math.PI * place) / 5 - Math.PI / 2;
    const radius = place % 2 ? 0.45 * r : r;
    return `${(radius * Math.cos(angle)).toFixed(2)},${(radius * Math.sin(angle)).toFixed(2)}`;
  };
  return `M${[...Array(10).keys()].map(corner).join("L")}Z`;
}

// In the order of drawing. marked: can be reached with the keyboard, and is drawn above the others.
export const KINDS = {
  stopped: { label: "stopped early (accuracy so far; on the edge where below it)", path: cross(3.2), filled: false, marked: false },
  reduced: { label: "reduced steps", path: circle(2.6), filled: true, marked: false },
  full: { label: "full resolution", path: diamond(4.2), filled: false, marked: false },
  rival: { label: "full resolution, on a front", path: diamond(6.2), filled: true, marked: true },
  front: { label: "reduced steps, on the front", path: circle(5.4), filled: true, marked: true },
  baseline: { label: "baseline", path: star(9), filled: true, marked: true },
};

export function kindOf(mark, isOnFront, isOnRivalFront) {
  if (mark === "s") return "stopped";
  if (mark === "b") return "baseline";
  if (mark === "f") return isOnFront || isOnRivalFront ? "rival" : "full";
  return isOnFront ? "front" : "reduced";
}
