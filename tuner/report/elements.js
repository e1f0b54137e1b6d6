// Elements and figures as texts. Whatever a study holds becomes a text node or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// nodes in place of the host's. What is the same stays, with its focus and what is marked in it; folds stay open.
export function redraw(host, ...nodes) {
  const former = [...host.childNodes];
  nodes.forEach((node, place) => {
    const drawn = typeof node === "string" ? document.createTextNode(node) : node;
    const old = former[place];
    if (!old) return host.append(drawn);
    keepOpen(old, drawn);
    if (!old.isEqualNode(drawn)) old.replaceWith(drawn);
  });
  for (const old of former.slice(nodes.length)) old.remove();
}

function keepOpen(old, drawn) {
  if (!(old instanceof Element && drawn instanceof Element) || old.dataset.number !== drawn.dataset.number) return;
  const open = [...old.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
  for (const fold of drawn.querySelectorAll("details")) fold.open = open.includes(fold.querySelector("summary").textContent);
}

// A screen reader says a status again when it is written again.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function byId(id) {
  return document.getElementById(id);
}

// A share in percent, a dash for what is not known.
export function percent(share, digits = 1) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  return seconds < 7200 ? `${(seconds / 60).toPrecision(3)} min` : `${(seconds / 3600).toPrecision(3)} h`;
}

export function button(text, attributes, onClick) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", onClick);
  return made;
}

// heads: [text, is a number]; rows: lists of cells, texts or nodes.
export function table(caption, heads, rows) {
  const cell = (tag, content, numeric, more = {}) => element(tag, { class: numeric ? "figure" : null, ...more }, content);
  const head = element("tr", {}, ...heads.map(([text, numeric]) => cell("th", text, numeric, { scope: "col" })));
  const body = rows.map((row) => element("tr", {}, ...row.map((content, place) => cell("td", content, heads[place][1]))));
  return element("table", {}, element("caption", {}, element("span", {}, caption)), element("thead", {}, head), element("tbody", {}, ...body));
}

// Round values from low to high, about so many.
export function ticks(low, high, wanted) {
  const rough = Math.max(high - low, 1e-9) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let count = Math.ceil(low / step - 1e-9); count * step <= high + 1e-9; count += 1) {
    found.push({ value: count * step, text: (count * step).toFixed(digits) });
  }
  return found;
}
