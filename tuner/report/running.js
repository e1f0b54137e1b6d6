// What is only known while a study runs: its running trials, and how far its launch is.

import { byId, element, percent, redraw, say } from "./elements.js";

// The section that a page in a file doesn't have.
export function runningSection() {
  return element(
    "section",
    { id: "live", "aria-labelledby": "live-title" },
    element("h2", { id: "live-title" }, "Running now"),
    element("p", { id: "launch", class: "note" }),
    element("p", { id: "confirming", class: "note" }),
    element("div", { id: "running", class: "running", role: "region", "aria-label": "Running trials", tabindex: 0 }),
  );
}

// counts: of the document that is drawn, so that the page tells one number of finished trials; none where none is drawn yet.
export function drawRunning(state, counts) {
  const { running } = state;
  say(byId("launch"), [state.under_way, launchWords(state, counts)].filter(Boolean).join(" "));
  say(byId("confirming"), state.confirming);
  redraw(byId("running"), ...running.map(runningTrial));
  byId("running").hidden = !running.length;
}

// Of a trial that has told no epoch the database doesn't know whether a worker has begun it.
export function isBegun({ epoch }) {
  return epoch > 0;
}

function launchWords({ finished, asked, left, is_behind }, counts) {
  const shown = counts ? counts.completed + counts.stopped : finished;
  if (shown === null) return "";
  const more = counts && is_behind ? finished - shown : 0;
  const of = asked > shown ? ` of ${asked}` : "";
  const words = [`${shown}${of} ${shown === 1 ? "trial is" : "trials are"} finished`, more > 0 ? `${more} more ${more === 1 ? "is" : "are"} being read` : "", left];
  return `${words.filter(Boolean).join("; ")}.`;
}

function runningTrial(trial) {
  const { number, attempt, epoch, epochs, abandoned } = trial;
  const name = `Trial ${number}${attempt > 1 ? `, attempt ${attempt}` : ""}`;
  const share = epochs ? element("progress", { max: epochs, value: epoch, "aria-label": `Epochs of trial ${number} that are done` }) : null;
  return element(
    "article",
    { "data-number": number, class: abandoned ? "stale" : null },
    element("h3", {}, name),
    share,
    element("p", { class: "words" }, progressWords(trial)),
    element("p", { class: "words" }, [trial.schedule, trial.training].filter(Boolean).join("; ")),
    abandoned || !trial.driver ? null : element("p", { class: "words note" }, `driver: ${trial.driver}`),
    abandoned ? element("p", { class: "words" }, element("strong", { class: "badge" }, "! stale"), ` ${abandoned}; the next launch goes on with it.`) : null,
  );
}

function progressWords({ epoch, epochs, accuracy }) {
  if (!epoch) return `handed out, ${epochs ? `none of ${epochs} epochs` : "no epoch"} told yet`;
  const done = epochs ? `${epoch} of ${epochs} epochs` : `${epoch} epochs`;
  return accuracy === null ? done : `${done}, ${percent(accuracy, 2)} validation accuracy`;
}
