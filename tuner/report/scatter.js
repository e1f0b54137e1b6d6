// Relative time against accuracy. A canvas holds the many points; the marked ones are elements, so that a keyboard reaches them.

import { element, percent, svg, ticks } from "./elements.js";
import { KINDS } from "./shapes.js";

const MARGIN = { left: 44, right: 14, top: 26, bottom: 44 };
// How far from a point a finger or a mouse may be.
const REACH_PX = 18;
const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };

export class Scatter {
  // onPick(number, isAdded): a point was clicked, or Enter pressed on it.
  constructor(host, onPick) {
    this.host = host;
    this.onPick = onPick;
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.drawing = svg("svg", { role: "group", "aria-label": "The front: relative time against accuracy" });
    this.tip = element("div", { class: "tip", "aria-hidden": "true" });
    this.tip.hidden = true;
    host.replaceChildren(this.canvas, this.drawing, this.tip);
    host.addEventListener("click", (event) => this.clicked(event));
    // Else the browser takes Shift for a selection of text.
    host.addEventListener("mousedown", (event) => event.shiftKey && event.preventDefault());
    host.addEventListener("pointermove", (event) => this.hovered(event));
    host.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.drawing.addEventListener("keydown", (event) => this.pressed(event));
    // A tab that is being closed has no width.
    new ResizeObserver(() => this.points && ![0, this.width].includes(host.clientWidth) && this.draw()).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.points && this.draw());
  }

  // points: the visible ones, low and high are the ends of an interval; stairs: [class, points in the order of time];
  // letters: trial number -> letter of the comparison; name: of the accuracy.
  show(points, stairs, letters, name) {
    Object.assign(this, { points: points.filter((point) => point.time !== null && point.accuracy !== null), stairs, letters, name });
    this.reachable = this.points.filter((point) => KINDS[point.kind].marked).sort((a, b) => a.time - b.time || a.number - b.number);
    if (!this.reachable.some((point) => point.number === this.current)) this.current = this.reachable[0]?.number;
    this.draw();
  }

  draw() {
    const hadFocus = this.drawing.contains(document.activeElement);
    this.width = this.host.clientWidth;
    this.height = Math.round(Math.min(520, Math.max(280, this.width * 0.56)));
    this.scale();
    this.drawing.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.drawing.setAttribute("height", this.height);
    this.drawing.replaceChildren(...this.axes(), ...this.lines(), ...this.intervals(), ...this.marked(), ...this.rings());
    this.dots();
    if (hadFocus) this.drawing.querySelector('[tabindex="0"]')?.focus();
  }

  scale() {
    // What was stopped lies below its own end: it would squeeze the front.
    const framing = this.points.filter((point) => point.kind !== "stopped");
    const [left, right] = padded((framing.length ? framing : this.points).map((point) => point.time));
    const [low, high] = padded((framing.length ? framing : this.points).flatMap((point) => [point.low ?? point.accuracy, point.high ?? point.accuracy]));
    this.frame = { left: Math.max(0, left), right, low, high };
    const across = (this.width - MARGIN.left - MARGIN.right) / (right - this.frame.left);
    const up = (this.height - MARGIN.top - MARGIN.bottom) / (high - low);
    this.x = (time) => MARGIN.left + (time - this.frame.left) * across;
    this.y = (accuracy) => this.height - MARGIN.bottom - (accuracy - low) * up;
  }

  place(point) {
    const { left, right, low, high } = this.frame;
    const within = (value, from, to) => Math.min(to, Math.max(from, value));
    return [this.x(within(point.time, left, right)), this.y(within(point.accuracy, low, high))];
  }

  axes() {
    const { left, right, low, high } = this.frame;
    const bottom = this.height - MARGIN.bottom;
    const across = ticks(100 * left, 100 * right, this.width < 500 ? 5 : 8).flatMap(({ value, text }) => [
      svg("line", { class: "grid", x1: this.x(value / 100), x2: this.x(value / 100), y1: MARGIN.top, y2: bottom }),
      svg("text", { x: this.x(value / 100), y: bottom + 16, "text-anchor": "middle" }, text),
    ]);
    const up = ticks(100 * low, 100 * high, 6).flatMap(({ value, text }) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: this.width - MARGIN.right, y1: this.y(value / 100), y2: this.y(value / 100) }),
      svg("text", { x: MARGIN.left - 6, y: this.y(value / 100) + 4, "text-anchor": "end" }, text),
    ]);
    const names = [
      svg("text", { class: "name", x: this.width - MARGIN.right, y: this.height - 8, "text-anchor": "end" }, "training time, % of the baseline's"),
      svg("text", { class: "name", x: 4, y: 14 }, this.name),
    ];
    return [svg("g", { "aria-hidden": "true" }, ...across, ...up, ...names)];
  }

  // Between two points the border turns at the worse of both, so no corner claims a result that nobody reached.
  lines() {
    const frame = { x: MARGIN.left, y: MARGIN.top, width: this.width - MARGIN.left - MARGIN.right, height: this.height - MARGIN.top - MARGIN.bottom };
    const clip = svg("clipPath", { id: "frame" }, svg("rect", frame));
    const paths = this.stairs.map(([name, points]) => {
      const turns = points.map((point) => `H${this.x(point.time)}V${this.y(point.accuracy)}`).join("");
      const start = `M${this.x(points[0].time)},${this.height - MARGIN.bottom}`;
      return svg("path", { class: `stairs ${name}`, d: `${start}${turns}H${this.width - MARGIN.right}`, "clip-path": "url(#frame)" });
    });
    return [clip, svg("g", { "aria-hidden": "true" }, ...paths)];
  }

  intervals() {
    const bars = this.points.filter((point) => point.low !== undefined).map((point) => {
      const [x, low, high] = [this.x(point.time), this.y(point.low), this.y(point.high)];
      return `M${x - 5},${low}h10M${x},${low}V${high}M${x - 5},${high}h10`;
    });
    return bars.length ? [svg("path", { class: "interval", d: bars.join(""), "aria-hidden": "true" })] : [];
  }

  marked() {
    return this.reachable.map((point) => {
      const [x, y] = this.place(point);
      const said = `trial ${point.number}, ${KINDS[point.kind].label}: ${percent(point.time)} time, ${percent(point.accuracy, 2)} accuracy. ${point.schedule}`;
      return svg(
        "g",
        {
          class: `point ${point.kind}`,
          transform: `translate(${x} ${y})`,
          role: "button",
          tabindex: point.number === this.current ? 0 : -1,
          "data-number": point.number,
          "aria-pressed": String(this.letters.has(point.number)),
          "aria-label": said,
        },
        svg("circle", { class: "focus", r: 13 }),
        svg("path", { d: KINDS[point.kind].path }),
      );
    });
  }

  rings() {
    const chosen = this.points.filter((point) => this.letters.has(point.number));
    return chosen.map((point) => {
      const [x, y] = this.place(point);
      const above = y > MARGIN.top + 22 ? -14 : 24;
      const letter = svg("text", { y: above, "text-anchor": "middle" }, this.letters.get(point.number));
      return svg("g", { class: "ring", transform: `translate(${x} ${y})`, "aria-hidden": "true" }, svg("circle", { r: 10.5 }), letter);
    });
  }

  dots() {
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas, { width: this.width * ratio, height: this.height * ratio });
    this.canvas.style.height = `${this.height}px`;
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(this.host);
    for (const [kind, { path, filled, marked }] of Object.entries(KINDS)) {
      if (marked) continue;
      const shape = new Path2D(path);
      context.fillStyle = context.strokeStyle = style.getPropertyValue(`--${kind}`);
      context.lineWidth = 1.3;
      for (const point of this.points) {
        if (point.kind !== kind) continue;
        const [x, y] = this.place(point);
        context.setTransform(ratio, 0, 0, ratio, x * ratio, y * ratio);
        if (filled) context.fill(shape);
        else context.stroke(shape);
      }
    }
  }

  // The nearest point within reach; of equally near ones a marked one.
  at(event) {
    const box = this.host.getBoundingClientRect();
    let [best, nearest] = [null, REACH_PX];
    for (const point of this.points) {
      const [x, y] = this.place(point);
      const away = Math.hypot(event.clientX - box.left - x, event.clientY - box.top - y) - (KINDS[point.kind].marked ? 3 : 0);
      if (away < nearest) [best, nearest] = [point, away];
    }
    return best;
  }

  clicked(event) {
    const point = this.at(event);
    if (point) this.pick(point, event.shiftKey);
  }

  hovered(event) {
    const point = event.pointerType === "mouse" ? this.at(event) : null;
    this.tip.hidden = !point;
    if (!point) return;
    this.tip.textContent = `trial ${point.number}: ${percent(point.time)} time, ${percent(point.accuracy, 2)} accuracy`;
    const [x, y] = this.place(point);
    this.tip.style.left = `${Math.min(Math.max(x, 110), this.width - 110)}px`;
    this.tip.style.top = `${y}px`;
  }

  pressed(event) {
    const place = this.reachable.findIndex((point) => point.number === this.current);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.pick(this.reachable[place], event.shiftKey);
      return;
    }
    const last = this.reachable.length - 1;
    const next = { Home: 0, End: last }[event.key] ?? (event.key in STEPS ? place + STEPS[event.key] : -1);
    if (next < 0 || next > last) return;
    event.preventDefault();
    this.current = this.reachable[next].number;
    for (const one of this.drawing.querySelectorAll(".point")) {
      const isCurrent = one.dataset.number === String(this.current);
      one.setAttribute("tabindex", isCurrent ? 0 : -1);
      if (isCurrent) one.focus();
    }
  }

  pick(point, isAdded) {
    if (KINDS[point.kind].marked) this.current = point.number;
    this.onPick(point.number, isAdded);
  }
}

function padded(values) {
  let [low, high] = [Infinity, -Infinity];
  // One by one: there may be more than a call takes arguments.
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low > high) return [0, 1];
  const pad = 0.06 * (high - low) || 0.02;
  return [low - pad, high + pad];
}
