// Boxes over pictures, classes, and lines of code: what was found, as the sliders say.

import { $, state } from "./server.js";

const SVG = "http://www.w3.org/2000/svg";

function colour(label, kind = "fill") {
  return state.colours[label % state.colours.length][kind];
}

export function shown(viewer) {
  if (!viewer.found) return [];
  const score = Number($("score").value);
  return viewer.found.detections
    .filter((one) => one.score > score && !state.hidden.has(one.name))
    .slice(0, Number($("most").value));
}

export function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

function draw(viewer) {
  const { svg, found, media } = viewer;
  svg.replaceChildren();
  if (!found) return;
  svg.setAttribute("viewBox", `0 0 ${found.width} ${found.height}`);
  const unit = found.width / Math.max(media.clientWidth, 1); // picture pixels per screen pixel
  const objects = shown(viewer);
  for (const { box_xyxy: [left, top, right, bottom], label } of objects) {
    element("rect", { class: "box", x: left, y: top, width: right - left, height: bottom - top, stroke: colour(label) }, svg);
  }
  const taken = [];
  for (const { box_xyxy: [left, top], name, score, label } of objects) {
    const words = `${name} ${score.toFixed(2)}`;
    const [width, height] = [(words.length * 7.2 + 8) * unit, 18 * unit];
    const x = Math.min(left, Math.max(found.width - width, 0));
    let y = Math.max(top - height, 0);
    for (let tries = 0; tries < 8; tries += 1) {
      const other = taken.find((t) => x < t.x + t.width && t.x < x + width && y < t.y + t.height && t.y < y + height);
      if (!other || other.y + other.height + height > found.height) break;
      y = other.y + other.height;
    }
    taken.push({ x, y, width, height });
    element("rect", { x, y, width, height, fill: colour(label), rx: 2 * unit }, svg);
    const text = element("text", { x: x + 4 * unit, y: y + height / 2, fill: colour(label, "ink"), "font-size": 12.5 * unit }, svg);
    text.textContent = words;
  }
  const { ms } = found;
  const parts = [`${ms.round_trip.toFixed(0)} ms round trip`, `${ms.request.toFixed(1)} ms Triton`];
  for (const stage of ["queue", "preprocess", "engine", "postprocess"]) {
    if (ms[stage] !== undefined) parts.push(`${stage} ${ms[stage].toFixed(1)}`);
  }
  viewer.caption.replaceChildren(
    Object.assign(document.createElement("strong"), { textContent: found.model }),
    Object.assign(document.createElement("span"), { className: "count", textContent: `${objects.length} objects` }),
    Object.assign(document.createElement("span"), { className: "times", textContent: parts.join(" · ") }),
  );
}

export function drawAll() {
  for (const [id, suffix] of [["score", ""], ["iou", ""], ["most", ""], ["zoom", " %"]]) $(`${id}-value`).textContent = $(id).value + suffix;
  for (const viewer of state.viewers) {
    fit(viewer);
    draw(viewer);
  }
  drawClasses();
  drawCode();
}

function drawClasses() {
  const counts = new Map();
  const score = Number($("score").value);
  for (const viewer of state.viewers) {
    for (const one of viewer.found?.detections ?? []) {
      const known = counts.get(one.name) ?? { label: one.label, count: 0 };
      if (one.score > score) known.count += 1;
      counts.set(one.name, known);
    }
  }
  $("classes-box").hidden = counts.size === 0;
  const sorted = [...counts].sort((a, b) => b[1].count - a[1].count || a[0].localeCompare(b[0]));
  const rows = sorted.map(([name, { label, count }]) => {
    const row = document.createElement("label");
    const tick = Object.assign(document.createElement("input"), { type: "checkbox", checked: !state.hidden.has(name) });
    tick.dataset.name = name;
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = colour(label);
    row.append(tick, swatch, name, Object.assign(document.createElement("span"), { className: "count", textContent: count }));
    return row;
  });
  const focused = document.activeElement?.dataset?.name;
  $("classes").replaceChildren(...rows);
  if (focused) $("classes").querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
}

function drawCode() {
  const viewer = state.viewers[0];
  $("code").hidden = !viewer?.found || state.source?.kind !== "picture";
  if ($("code").hidden) return;
  const file = state.source.name;
  const parameters = `score_threshold=${$("score").value}&iou_threshold=${$("iou").value}&max_detections=${$("most").value}`;
  const quoted = file.replaceAll("'", "'\\''");
  $("curl").textContent = `curl --data-binary @'${quoted}' '${location.origin}/api/detect?model=${encodeURIComponent(viewer.model)}&${parameters}'`;
  const { url } = state.models.find(({ name }) => name === viewer.model);
  const server = url ? `${JSON.stringify(url)}, ` : "";
  $("python").textContent = [
    "from nas_client import Detector",
    `with Detector(${server}model=${JSON.stringify(viewer.model)}) as detector:`,
    `    print(detector.detect(${JSON.stringify(file)}, score_threshold=${$("score").value}, iou_threshold=${$("iou").value}, max_detections=${$("most").value}).to_dict())`,
  ].join("\n");
}

function fit(viewer) {
  const room = viewer.scroll.clientWidth;
  const [width, height] = [viewer.media.naturalWidth || viewer.media.videoWidth, viewer.media.naturalHeight || viewer.media.videoHeight];
  if (!width) return;
  const whole = Math.min(room, (innerHeight * 0.78 * width) / height);
  viewer.stage.style.width = `${(whole * Number($("zoom").value)) / 100}px`;
}

export function say(text) {
  $("status").textContent = text;
}

export function complain(error) {
  $("error").textContent = error?.message ?? "";
  $("error").hidden = !error;
}
