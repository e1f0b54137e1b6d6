// The page: reads the study's document, keeps what is selected and filtered, and has everything drawn.

import { byId } from "./elements.js";
import { kindOf } from "./shapes.js";
import { Scatter } from "./scatter.js";
import { LETTERS, card, curvesFigure } from "./cards.js";
import { costTables, countWords, frontTable, headlineFigures, legend, originParts, verdict, volumeFigure } from "./sections.js";

const VERSION = 1;
const FILTERS = ["least-accuracy", "most-time"];

let study;
let selected = [];
const scatter = new Scatter(byId("scatter"), pick);

// document: as tuner.report.document makes it; a live page calls this again with a fresh one.
export function show(document_) {
  if (document_.version !== VERSION) throw new Error(`the data have version ${document_.version}, this page reads ${VERSION}`);
  study = { ...document_, points: readPoints(document_) };
  study.byNumber = new Map(study.points.map((point) => [point.number, point]));
  selected = (selected.length ? selected : firstSelected()).filter((number) => study.byNumber.has(number));
  drawStudy();
  drawFiltered();
  drawSelection();
}

// The answer beside the baseline; where that is full resolution itself, the most accurate point with reduced steps instead.
function firstSelected() {
  const reduced = frontPoints().filter((point) => point.kind === "front").map((point) => point.number);
  const { trial, baseline } = study.headline;
  const answer = reduced.includes(trial) ? trial : (reduced.at(-1) ?? study.front[0]);
  return [...new Set([answer, baseline ?? answer])];
}

function readPoints({ trials, front, rival_front }) {
  const [onFront, onRivalFront] = [new Set(front), new Set(rival_front)];
  return trials.number.map((number, place) => ({
    number,
    time: trials.time[place],
    accuracy: trials.accuracy[place],
    saved: trials.saved[place],
    schedule: trials.schedule.texts[trials.schedule.of[place]],
    training: trials.training.texts[trials.training.of[place]],
    kind: kindOf(trials.marks[place], onFront.has(number), onRivalFront.has(number)),
  }));
}

function drawStudy() {
  document.title = study.study;
  byId("study").textContent = study.study;
  byId("counts").textContent = countWords(study);
  byId("figures").replaceChildren(...headlineFigures(study));
  byId("verdict").replaceChildren(...verdict(study));
  byId("front-note").textContent = study.in_plane ? "" : `The front is over ${study.objectives.join(", ")}; drawn are training time and validation accuracy.`;
  byId("anew-choice").hidden = !study.confirmed;
  byId("volume").replaceChildren(...volumeFigure(byId("volume"), study));
  byId("costs").replaceChildren(...costTables(study));
  byId("origin").replaceChildren(...originParts(study));
  byId("made").textContent = `Made ${study.made.slice(0, 16).replace("T", " ")} UTC. Opens without a network.`;
}

function drawSelection() {
  const points = selected.map((number) => study.byNumber.get(number));
  byId("selected-note").textContent = points.length
    ? `${points.length > 1 ? "Side by side" : "Shown"}: ${points.map((point) => `trial ${point.number}`).join(", ")}.`
    : "Nothing is selected: click a point of the front.";
  byId("cards").replaceChildren(...points.map((point, place) => card(study, point, LETTERS[place], remove)));
  byId("curves").replaceChildren(...curvesFigure(byId("curves"), study, points));
  drawScatter();
}

// Confirmed points have the mean test accuracy of their fresh seeds, and its interval, in place of what the search measured once.
function viewedPoints() {
  if (!byId("anew").checked) return study.points;
  const confirmed = study.points.filter((point) => study.confirmed[point.number]);
  return confirmed.map((point) => {
    const { mean, low, high } = study.confirmed[point.number];
    return { ...point, accuracy: mean, low, high };
  });
}

function drawScatter() {
  const letters = new Map(selected.map((number, place) => [number, LETTERS[place]]));
  const viewed = new Map(viewedPoints().map((point) => [point.number, point]));
  const line = (name, numbers) => [name, better(ordered(numbers.map((number) => viewed.get(number)).filter(Boolean)))];
  const stairs = study.in_plane ? [line("all", [...study.front, ...study.rival_front]), line("rivals", study.rival_front)] : [];
  const name = byId("anew").checked ? "test accuracy, mean of fresh seeds, %" : "validation accuracy, %";
  scatter.show(visiblePoints(), stairs.filter(([, points]) => points.length), letters, name);
}

function drawFiltered() {
  byId("legend").replaceChildren(...legend(viewedPoints(), study.in_plane));
  const visible = new Set(visiblePoints().map((point) => point.number));
  byId("shown").textContent = visible.size < study.points.length ? `${visible.size} of ${study.points.length} finished trials are shown.` : "";
  byId("table").replaceChildren(frontTable(study, frontPoints().filter((point) => visible.has(point.number)), pick));
}

function ordered(points) {
  const placed = points.filter((point) => point.time !== null && point.accuracy !== null);
  return placed.sort((a, b) => a.time - b.time || b.accuracy - a.accuracy);
}

// Of points in the order of time those that no faster one is as accurate as.
function better(points) {
  let reached = -Infinity;
  return points.filter(({ accuracy }) => accuracy > reached && ((reached = accuracy), true));
}

function frontPoints() {
  return ordered(study.front.map((number) => study.byNumber.get(number)));
}

function visiblePoints() {
  const [least, most] = FILTERS.map((id) => byId(id).valueAsNumber);
  // An empty field is no limit. 100 * 0.57 is less than 57 in binary, and a trial on the limit is within it.
  const isAccurate = ({ accuracy }) => Number.isNaN(least) || (accuracy !== null && 100 * accuracy >= least - 1e-6);
  const isFast = ({ time }) => Number.isNaN(most) || (time !== null && 100 * time <= most + 1e-6);
  return viewedPoints().filter((point) => isAccurate(point) && isFast(point));
}

function pick(number, isAdded) {
  const kept = isAdded || byId("keep").checked ? selected : [];
  if (kept.includes(number)) remove(number);
  else choose([...kept, number].slice(-LETTERS.length));
}

function remove(number) {
  const hadFocus = byId("cards").contains(document.activeElement);
  choose(selected.filter((other) => other !== number));
  // Else a keyboard would be sent back to the top of the page.
  if (hadFocus) (byId("cards").querySelector(".remove") ?? byId("scatter").querySelector('[tabindex="0"]'))?.focus();
}

function filtered() {
  drawFiltered();
  drawScatter();
}

function choose(numbers) {
  selected = numbers;
  drawSelection();
}

byId("filters").addEventListener("input", ({ target }) => [...FILTERS, "anew"].includes(target.id) && filtered());
// The fields are emptied after the event.
byId("filters").addEventListener("reset", () => setTimeout(filtered));
byId("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  const number = byId("trial-number").valueAsNumber;
  if (Number.isNaN(number)) return;
  if (study.byNumber.has(number)) pick(number, false);
  else byId("shown").textContent = `Trial ${number} is no finished trial of this study.`;
});

show(JSON.parse(byId("data").textContent));
requestAnimationFrame(() => setTimeout(() => performance.mark("front-drawn")));
