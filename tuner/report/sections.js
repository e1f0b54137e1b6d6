// The parts of the page that follow from the study alone: headline, legend, tables, hypervolume and origin.

import { button, element, percent, svg, table } from "./elements.js";
import { KINDS } from "./shapes.js";
import { lineChart } from "./charts.js";

export function headlineFigures({ headline }) {
  if (headline.saved === null) return [element("p", {}, headline.meaning)];
  const figure = (value, words, name = "") => element("div", { class: `big ${name}` }, element("strong", {}, value), element("span", {}, words));
  const points = 100 * (headline.accuracy - headline.baseline_accuracy);
  const kind = headline.confirmed ? "test accuracy, mean of fresh seeds" : "validation accuracy";
  return [
    figure(percent(headline.saved, 0), headline.meaning, "main"),
    figure(percent(headline.time, 0), `of the baseline's training time, trial ${headline.trial}`),
    figure(percent(headline.accuracy, 2), `${kind}, ${points >= 0 ? "+" : "−"}${Math.abs(points).toFixed(2)} points against the baseline`),
  ];
}

export function verdict({ headline, timing_doubt }) {
  const said = headline.confirmed ? "✓ confirmed" : headline.partly ? "! partly confirmed" : "! not confirmed";
  const badge = (words, isGood = false) => element("span", { class: isGood ? "badge good" : "badge" }, words);
  const doubt = timing_doubt ? [element("br"), badge("! times in doubt"), ` ${timing_doubt}`] : [];
  return [badge(said, headline.confirmed), ` ${headline.statement}`, ...doubt];
}

export function countWords({ counts, objectives }) {
  const kinds = {
    completed: ["completed trial", "completed trials"],
    stopped: ["stopped early", "stopped early"],
    running: ["running", "running"],
    handed_out: ["handed out", "handed out"],
    stale: ["stale", "stale"],
    failed: ["failed attempt", "failed attempts"],
    interrupted: ["interrupted, which the next launch goes on with", "interrupted, which the next launch goes on with"],
  };
  const shown = Object.entries(kinds).filter(([name]) => counts[name] || name === "completed");
  const words = shown.map(([name, [one, several]]) => `${counts[name].toLocaleString("en")} ${counts[name] === 1 ? one : several}`);
  return `${words.join(", ")}; objectives: ${objectives.join(" and ")}`;
}

export function legend(points, hasStairs) {
  const present = Object.entries(KINDS).filter(([kind]) => points.some((point) => point.kind === kind)).reverse();
  const marks = present.map(([kind, { path, label }]) =>
    element("li", {}, svg("svg", { viewBox: "-10 -10 20 20", "aria-hidden": "true", class: `point ${kind}` }, svg("path", { d: path })), label),
  );
  const line = (name, label) => element("li", {}, svg("svg", { viewBox: "-10 -10 20 20", "aria-hidden": "true" }, svg("path", { class: `stairs ${name}`, d: "M-10,0H10" })), label);
  return hasStairs ? [...marks, line("all", "front"), line("rivals", "front of full resolution")] : marks;
}

export function frontTable(study, points, onPick) {
  const { confirmed } = study;
  const heads = [["trial", true], ["time", true], ["accuracy", true], ["time saved", true], ...(confirmed ? [["test accuracy, mean (95 % interval)", true]] : []), ["schedule", false], ["training", false]];
  const rows = points.map((point) => {
    const show = button(String(point.number), { "aria-label": `Show trial ${point.number}` }, (event) => onPick(point.number, event.shiftKey));
    const name = point.kind === "baseline" ? `${point.schedule} (baseline)` : point.schedule;
    const anew = confirmed ? [confirmedWords(confirmed[point.number])] : [];
    return [show, percent(point.time), percent(point.accuracy, 2), percent(point.saved), ...anew, name, point.training];
  });
  return table("Time saved: against the fastest full-resolution trial that is at least as accurate, – where none is.", heads, rows);
}

function confirmedWords(anew) {
  if (!anew) return "not confirmed";
  const interval = `${percent(anew.mean, 2)} (${(100 * anew.low).toFixed(2)}–${(100 * anew.high).toFixed(2)})`;
  return anew.stays ? interval : `${interval}, by luck`;
}

export function volumeFigure({ hypervolume, counts }, host) {
  if (!hypervolume) return [element("figcaption", {}, "These objectives have no hypervolume.")];
  const points = hypervolume.trials.map((count, place) => [count, hypervolume.values[place]]);
  const last = hypervolume.values[hypervolume.values.length - 1];
  points.push([counts.completed, last]);
  const label = `Hypervolume rises to ${last} after ${hypervolume.trials[hypervolume.trials.length - 1]} of ${counts.completed} completed trials`;
  const words = `${label}. It is the area that the front covers, up to the baseline's time and down to no accuracy.`;
  return [lineChart(host, label, "completed trials", "hypervolume", [{ points, name: "volume", isStepped: true }]), element("figcaption", {}, words)];
}

export function importanceTables({ importance }) {
  if (!importance.length) return [element("p", { class: "note" }, "Too few trials with reduced steps have completed to tell.")];
  const heads = [["field", false], ["alone", true], ["with others", true], ["of what differs over the space", false]];
  return importance.map(({ objective, explained, fields }) => {
    const rows = fields.map(([field, alone, inAll]) => [field, percent(alone, 0), percent(inAll, 0), bar(inAll)]);
    const doubt = explained < 0.5 ? " That is little, so take the shares with caution." : "";
    return table(`What decides ${objective}, learned from the completed trials with reduced steps; of trials that were left out it explains ${percent(explained, 0)}.${doubt}`, heads, rows);
  });
}

export function costTables({ costs }) {
  if (!costs.length) return [element("p", { class: "note" }, "No costs are stored with this study.")];
  const heads = [["side", true], ["kernels", false], ["batches", true], ["cost", true], ["95 % interval", true], ["milliseconds", true], ["of a full step", false]];
  return costs.map(({ device, rounds, rows }, place) => {
    const cells = rows.map((row) => [
      `${row.side} px`, row.kernel, String(row.batches), percent(row.relative), `${(100 * row.low).toFixed(1)}–${(100 * row.high).toFixed(1)}`, row.ms.toPrecision(3), bar(row.relative),
    ]);
    const use = place === 0 ? "; prices this study's trials" : "";
    return table(`Of a full step, on ${device || "an unnamed device"}, ${rounds} rounds${use}.`, heads, cells);
  });
}

function bar(share) {
  const size = { viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "bar", "aria-hidden": "true" };
  return svg("svg", size, svg("rect", { width: Math.min(100, 100 * share), height: 10 }));
}

export function originParts({ facts, origins }) {
  const list = element("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  const heads = [["device", false], ["versions", false], ["commit", false], ["trials", true]];
  const rows = origins.map((one) => [one.device || "–", one.versions || "–", one.commit || "–", String(one.trials)]);
  return [list, table("What trained it.", heads, rows)];
}
