// What is only known while a study runs: its running trials, and how far its launch is.

import { byId, element, percent, redraw, say } from "./elements.js";

// The section that a page in a file doesn't have.
export function runningSection() {
  return element(
    "section",
    { id: "live", "aria-labelledby": "live-title" },
    element("h2", { id: "live-title" }, "Running now"),
    element("p", { id: "launch", class: "note" }),
    element("div", { id: "running", class: "running", role: "region", "aria-label": "Running trials", tabindex: 0 }),
  );
}

export function drawRunning({ running, launch }) {
  const words = running.length > 1 ? `${running.length} trials are running.` : running.length ? "One trial is running." : "No trial is running.";
  say(byId("launch"), `${words} ${launch}`);
  redraw(byId("running"), ...running.map(runningTrial));
  byId("running").hidden = !running.length;
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
  if (!epoch) return epochs ? `none of ${epochs} epochs told yet` : "no epoch told yet";
  const done = epochs ? `${epoch} of ${epochs} epochs` : `${epoch} epochs`;
  return accuracy === null ? done : `${done}, ${percent(accuracy, 2)} validation accuracy`;
}
