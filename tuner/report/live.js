// Keeps the page as the study is: asks the server every few seconds, and draws anew what has changed under the reader's eyes.

import { byId, element, say } from "./elements.js";
import { countWords } from "./sections.js";
import { show } from "./page.js";
import { drawRunning, isBegun, runningSection } from "./running.js";

const POLL_MS = 3000;
// While the server reads what has changed.
const SOON_MS = 700;
const PATIENCE_MS = 20_000;
const HELD = "What has ended meanwhile is being read.";
const FOCUSABLE = "button, a, summary, pre";

// What the server says of itself is no error of ours.
class Unanswered extends Error {}

let drawn = null;
let document_ = null;
// The document that was there when this page was opened, where it was older than the list of what runs.
let outdated;
let timer = null;
let isAsking = false;

async function poll() {
  clearTimeout(timer);
  if (document.hidden || isAsking) return;
  isAsking = true;
  let next = POLL_MS;
  try {
    const [state] = await asked("live.json");
    await refresh(state);
    if (state.is_reading || isHeld(state)) next = SOON_MS;
  } catch (error) {
    if (!(error instanceof Unanswered)) throw error;
    say(byId("state"), error.message);
  } finally {
    isAsking = false;
    timer = setTimeout(poll, next);
  }
}

async function asked(path) {
  let answer;
  try {
    answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (answer.ok) return [await answer.json(), answer.headers.get("ETag")];
  } catch {
    throw new Unanswered("The server doesn't answer: this is what it last said. Asked again every few seconds.");
  }
  if (answer.status === 401) throw new Unanswered("The server wants its token again: open the URL that tuner printed.");
  throw new Unanswered(`The server answers ${answer.status}: this is what it last said. Asked again every few seconds.`);
}

async function refresh(state) {
  if (document_ && document_.study !== state.study) return location.reload();
  const isNew = state.document && state.document !== drawn && !isHeld(state);
  if (isNew) [document_, drawn] = await asked("study.json");
  const draw = () => {
    if (isNew) show(document_, `Read from the study's database at ${document_.made.slice(11, 19)} UTC, and again whenever a trial has ended.`);
    drawState(state);
  };
  if (!document.body.classList.contains("waiting")) return keeping(draw);
  // Nobody reads yet what is drawn for the first time, so the page opens at its top.
  document.body.classList.toggle("waiting", !document_);
  draw();
}

// Whether the first thing to be drawn would be older than the list of what runs: the server is reading a newer one.
function isHeld(state) {
  if (document_ || !state.is_behind) return false;
  if (outdated === undefined) outdated = state.document;
  return state.document === outdated;
}

function drawState(state) {
  say(byId("state"), [state.waiting || (isHeld(state) ? HELD : ""), state.problem].filter(Boolean).join(" "));
  byId("optuna").href = state.optuna;
  drawRunning(state, document_?.counts);
  if (document_) return say(byId("counts"), countWords({ ...document_, counts: { ...document_.counts, ...runningCounts(state) } }));
  document.title = state.study;
  say(byId("study"), state.study);
}

function runningCounts({ running }) {
  const alive = running.filter(({ abandoned }) => !abandoned);
  const begun = alive.filter(isBegun).length;
  return { running: begun, handed_out: alive.length - begun, stale: running.length - alive.length };
}

// What the reader points at or reads stays where it is on the screen, and what had the focus has it afterwards.
function keeping(draw) {
  const active = document.activeElement ?? document.body;
  const place = active.closest("[id]");
  const section = document.querySelector("main > section:hover") ?? active.closest("main > section") ?? (scrollY ? firstSeen() : null);
  const top = section?.getBoundingClientRect().top;
  draw();
  if (!active.isConnected) (place && (same(place, active) ?? place))?.focus({ preventScroll: true });
  if (section) scrollBy(0, section.getBoundingClientRect().top - top);
}

function firstSeen() {
  return [...document.querySelectorAll("main > section")].find((section) => section.getBoundingClientRect().bottom > 0);
}

function same(place, active) {
  const card = (node) => node.closest("[data-number]")?.dataset.number;
  const words = (node) => node.getAttribute("aria-label") ?? node.textContent;
  return [...place.querySelectorAll(FOCUSABLE)].find((node) => words(node) === words(active) && card(node) === card(active));
}

document.body.classList.add("waiting");
document.querySelector("header").append(
  element("p", { id: "state", role: "status", class: "note" }),
  element("p", {}, element("a", { id: "optuna", href: "dashboard" }, "Optuna's dashboard of this study")),
);
byId("front").before(runningSection());
document.addEventListener("visibilitychange", poll);
poll();
