// The page: reads the study's document, keeps what is selected and filtered, and has everything drawn.

import { byId, redraw, say } from "./elements.js";
import { kindOf } from "./shapes.js";
import { Scatter } from "./scatter.js";
import { LETTERS, card, curvesFigure } from "./cards.js";
import { costTables, countWords, frontTable, headlineFigures, importanceTables, legend, originParts, verdict, volumeFigure } from "./sections.js";

const VERSION = 2;
const FILTERS = ["least-accuracy", "most-time"];
// What is drawn from the study alone, by the id of its place on the page: each function takes the study and that place, and gives nodes.
const DRAWN = { figures: headlineFigures, verdict, volume: volumeFigure, importance: importanceTables, costs: costTables, origin: originParts };

let study;
let selected = [];
// Until the reader selects something, what is shown follows the front.
let isChosen = false;
const scatter = new Scatter(byId("scatter"), pick);

// document: as tuner.report.document makes it; a live page calls this again with a fresh one. made: where it comes from, in words.
export function show(document_, made) {
  if (document_.version !== VERSION) throw new Error(`the data have version ${document_.version}, this page reads ${VERSION}`);
  study = { ...document_, details: { ...selectedDetails(), ...document_.details }, points: readPoints(document_) };
  study.byNumber = new Map(study.points.map((point) => [point.number, point]));
  selected = isChosen ? selected.filter((number) => study.byNumber.has(number)) : firstSelected();
  drawStudy();
  say(byId("made"), made);
  drawFiltered();
  drawSelection();
}

// A trial that is compared goes on being shown whole when it is among the newest no more.
function selectedDetails() {
  const kept = selected.filter((number) => study.details[number]);
  return Object.fromEntries(kept.map((number) => [number, study.details[number]]));
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
  say(byId("study"), study.study);
  say(byId("counts"), countWords(study));
  for (const [id, draw] of Object.entries(DRAWN)) redraw(byId(id), ...draw(study, byId(id)));
  byId("front-note").textContent = study.in_plane ? "" : `The front is over ${study.objectives.join(", ")}; drawn are training time and validation accuracy.`;
  byId("anew-choice").hidden = !study.confirmed;
  if (!study.confirmed) byId("anew").checked = false;
}

function drawSelection() {
  const points = selected.map((number) => study.byNumber.get(number));
  const names = points.map((point) => `trial ${point.number}`).join(", ");
  say(byId("selected-note"), names ? `${points.length > 1 ? "Side by side" : "Shown"}: ${names}.` : "Nothing is selected: click a point of the front.");
  redraw(byId("cards"), ...points.map((point, place) => card(study, point, LETTERS[place], remove)));
  redraw(byId("curves"), ...curvesFigure(byId("curves"), study, points));
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
  redraw(byId("legend"), ...legend(viewedPoints(), study.in_plane));
  const visible = new Set(visiblePoints().map((point) => point.number));
  say(byId("shown"), visible.size < study.points.length ? `${visible.size} of ${study.points.length} finished trials are shown.` : "");
  redraw(byId("table"), frontTable(study, frontPoints().filter((point) => visible.has(point.number)), pick));
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
  isChosen = true;
  drawSelection();
}

// Who opens a fold or copies code reads these cards.
byId("cards").addEventListener("click", () => (isChosen = true));
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

const embedded = JSON.parse(byId("data").textContent);
if (embedded) show(embedded, `Made ${embedded.made.slice(0, 16).replace("T", " ")} UTC. Opens without a network.`);
requestAnimationFrame(() => setTimeout(() => performance.mark("front-drawn")));
