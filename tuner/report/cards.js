// What is selected: a card a trial, side by side, and their accuracy curves over time.

import { button, duration, element, percent } from "./elements.js";
import { KINDS } from "./shapes.js";
import { lineChart, stripFigure } from "./charts.js";

export const LETTERS = ["A", "B", "C", "D"];

export function card(study, point, letter, onRemove) {
  const detail = study.details[point.number];
  const remove = button("×", { class: "remove", "aria-label": `Remove trial ${point.number}` }, () => onRemove(point.number));
  return element(
    "article",
    { class: "card", "data-number": point.number, "aria-label": `Trial ${point.number}` },
    element("h3", {}, element("span", { class: `letter slot-${letter}` }, letter), element("span", { class: "name" }, `Trial ${point.number}`), element("small", {}, kindWords(point)), remove),
    element("p", { class: "words" }, [point.schedule, point.training].filter(Boolean).join("; ")),
    detail ? stripFigure(detail.strip, study.full_px) : null,
    list(figures(study, point, detail)),
    ...(detail ? more(study, point, detail) : [leftOut(study, point)]),
  );
}

export function curvesFigure(host, study, points) {
  const drawn = points.filter((point) => study.details[point.number]?.curve);
  if (!drawn.length) return [];
  const series = drawn.map((point) => {
    const { time, accuracy } = study.details[point.number].curve;
    const places = time.map((end, epoch) => [100 * end, 100 * accuracy[epoch]]).filter((_, epoch) => accuracy[epoch] !== null);
    const letter = LETTERS[points.indexOf(point)];
    return { points: places, name: `slot-${letter}`, letter };
  });
  const label = `Validation accuracy over training time of ${drawn.map((point) => `trial ${point.number}`).join(", ")}`;
  const isPriced = drawn.every((point) => study.details[point.number].curve.priced);
  const note = isPriced ? "A dot an epoch, where its steps ended in time." : "A dot an epoch; without the costs of all steps epochs are drawn as if equally long.";
  const names = ["training time, % of the baseline's", "validation accuracy, %"];
  return [lineChart(host, label, ...names, series), element("figcaption", {}, note)];
}

function kindWords(point) {
  return point.kind === "stopped" ? "stopped early" : KINDS[point.kind].label;
}

function figures(study, point, detail) {
  const anew = study.confirmed?.[point.number];
  const isStopped = point.kind === "stopped";
  return [
    [isStopped ? "time so far" : "training time", `${percent(point.time)} of the baseline's`],
    [isStopped ? "accuracy so far" : "validation accuracy", percent(point.accuracy, 2)],
    isStopped ? null : ["time saved", savedWords(point.saved)],
    anew ? ["test accuracy", `${percent(anew.mean, 2)} (${(100 * anew.low).toFixed(2)}–${(100 * anew.high).toFixed(2)}), ${anew.seeds} seeds`] : null,
    anew && !anew.stays && study.front.includes(point.number) ? ["confirmed", "leaves the front: another confirmed trial beats it"] : null,
    detail ? ["seed", detail.seed === null ? "–" : String(detail.seed)] : null,
    detail?.device ? ["device", detail.device] : null,
  ].filter(Boolean);
}

function savedWords(saved) {
  if (saved === null) return "– (no full-resolution trial is as accurate)";
  return saved < 0 ? `none, ${percent(-saved)} more than full resolution` : `${percent(saved)} against full resolution`;
}

function more(study, point, detail) {
  const total = Object.values(detail.seconds).reduce((sum, part) => sum + (part ?? 0), 0);
  const seconds = Object.entries(detail.seconds).map(([part, time]) => [part, `${duration(time)} (${total ? percent((time ?? 0) / total, 0) : "–"})`]);
  const params = Object.entries(detail.params).map(([name, value]) => [name.replaceAll("_", " "), String(value ?? "–")]);
  return [
    seconds.length ? fold("Seconds by part", list(seconds)) : null,
    fold("Parameters", list(params)),
    ...(detail.file ? code(study, point, detail) : []),
  ];
}

function code(study, point, detail) {
  const name = `trial-${String(point.number).padStart(4, "0")}.yaml`;
  const text = [
    "from trainers import Downsampler, Schedule",
    `downsampler = Downsampler(model, Schedule.load("${name}"), total_steps=epochs * len(loader), full_px=${study.full_px})`,
    "with downsampler.step(images) as step_images:  # in the loop, around the forward and backward pass",
  ].join("\n");
  const shown = element("pre", { tabindex: 0, role: "group", "aria-label": `Code for trial ${point.number}` }, element("code", {}, text));
  const href = `data:application/yaml;charset=utf-8,${encodeURIComponent(detail.file)}`;
  const copy = button("Copy code", {}, () => copied(copy, shown, text));
  const needs = element("p", { class: "note" }, detail.needs);
  return [shown, needs, element("p", { class: "actions" }, copy, element("a", { class: "button", download: name, href }, `Download ${name}`))];
}

async function copied(copy, shown, text) {
  try {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  } catch {
    // A browser that forbids it still lets people copy what is selected.
    getSelection().selectAllChildren(shown);
    copy.textContent = "Selected: press Ctrl+C";
  }
}

function leftOut(study, point) {
  const kept = `Schedule, curve and seconds are on this page for the fronts and the newest ${study.newest} trials only.`;
  if (point.kind === "stopped") return element("p", { class: "note" }, kept);
  const command = element("code", {}, `tuner train --study ${study.study} --trial ${point.number}`);
  return element("p", { class: "note" }, kept, " This one is trained by ", command, ".");
}

function fold(title, content) {
  return element("details", {}, element("summary", {}, title), content);
}

function list(entries) {
  return element("dl", {}, ...entries.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}
