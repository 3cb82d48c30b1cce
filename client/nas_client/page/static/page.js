// What is shown is a filter of what was found: the server is asked once, with a low score, and sliders answer by themselves.

const ASKED_SCORE = 0.05;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

const state = {
  models: [], // as of /api/models
  colours: [], // {fill, ink} by label
  source: null, // {kind: "picture", blob, url, name} or {kind: "video", video, stop}
  viewers: [], // {model, figure, media, svg, caption, found, asked}
  hidden: new Set(), // names of classes
  touched: false, // whether somebody has set a threshold; until then the model's are taken
};

// --- the server

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the page's server does not answer; is nas-client page still running?");
  }
  const content = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(content.error);
  return content;
}

function query(model, stages) {
  const asked = Math.min(ASKED_SCORE, Number($("score").value));
  return { asked, text: new URLSearchParams({ model, score_threshold: asked, iou_threshold: $("iou").value, ...(stages ? { stages: 1 } : {}) }) };
}

async function detect(viewer, blob, stages) {
  const { asked, text } = query(viewer.model, stages);
  const started = performance.now();
  const found = await ask(`/api/detect?${text}`, { method: "POST", body: blob });
  found.ms.round_trip = performance.now() - started;
  viewer.found = found;
  viewer.asked = asked;
}

// --- showing

function colour(label, kind = "fill") {
  return state.colours[label % state.colours.length][kind];
}

function shown(viewer) {
  if (!viewer.found) return [];
  const score = Number($("score").value);
  return viewer.found.detections
    .filter((one) => one.score > score && !state.hidden.has(one.name))
    .slice(0, Number($("most").value));
}

function element(name, attributes, parent) {
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

function drawAll() {
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

function say(text) {
  $("status").textContent = text;
}

function complain(error) {
  $("error").textContent = error?.message ?? "";
  $("error").hidden = !error;
}

// --- viewers: one for each model that is shown

function makeViewers() {
  const models = [$("model").value, ...($("compare").checked ? [$("second").value] : [])].filter(Boolean);
  state.viewers = models.map((model) => {
    const viewer = { model, found: null };
    viewer.root = Object.assign(document.createElement("div"), { className: "viewer" });
    const figure = document.createElement("figure");
    viewer.scroll = Object.assign(document.createElement("div"), { className: "scroll" });
    viewer.stage = Object.assign(document.createElement("div"), { className: "stage" });
    viewer.caption = document.createElement("figcaption");
    viewer.svg = element("svg", { role: "img", "aria-label": `Objects that ${model} finds` });
    if (state.source.kind === "picture") {
      viewer.media = Object.assign(document.createElement("img"), { src: state.source.url, alt: state.source.name });
      viewer.media.addEventListener("load", drawAll);
    } else {
      viewer.media = Object.assign(document.createElement("video"), { muted: true, playsInline: true, loop: state.source.loops });
      if (state.source.stream) viewer.media.srcObject = state.source.stream;
      else Object.assign(viewer.media, { src: state.source.url, controls: true });
      viewer.media.addEventListener("loadedmetadata", drawAll);
      viewer.media.play().catch(() => {});
    }
    viewer.stage.append(viewer.media, viewer.svg);
    viewer.scroll.append(viewer.stage);
    figure.append(viewer.scroll, viewer.caption);
    viewer.root.append(figure);
    return viewer;
  });
  $("viewers").replaceChildren(...state.viewers.map((viewer) => viewer.root));
}

let turn = 0; // of what is asked for: answers to what was asked before are dropped

async function refresh() {
  if (state.source?.kind !== "picture" || !state.viewers.length) return;
  const mine = ++turn;
  say("asking…");
  try {
    for (const viewer of state.viewers) {
      const found = { model: viewer.model };
      await detect(found, state.source.blob, true); // one after the other: their times are shown
      if (mine !== turn) return;
      Object.assign(viewer, { found: found.found, asked: found.asked });
      drawAll();
    }
    complain(null);
  } catch (error) {
    if (mine === turn) complain(error);
  }
  if (mine === turn) say("");
}

async function follow(source) {
  // A video or a camera: the frame that is shown is sent, and the next when its answer is there.
  const canvas = document.createElement("canvas");
  let frames = 0;
  let since = performance.now();
  while (state.source === source) {
    const viewers = state.viewers;
    const video = viewers[0]?.media;
    if (!video?.videoWidth || (video.paused && viewers[0].found) || document.hidden) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      continue;
    }
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
    try {
      await Promise.all(viewers.map((viewer) => detect(viewer, blob, false)));
      complain(null);
    } catch (error) {
      complain(error);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    if (state.source !== source || viewers !== state.viewers) continue;
    drawAll();
    frames += 1;
    if (performance.now() - since > 1000) {
      say(`${((1000 * frames) / (performance.now() - since)).toFixed(1)} frames per second`);
      [frames, since] = [0, performance.now()];
    }
  }
}

// --- where pictures come from

function leave() {
  state.source?.stream?.getTracks().forEach((track) => track.stop());
  if (state.source?.url) URL.revokeObjectURL(state.source.url);
  $("shot").hidden = true;
  $("camera").textContent = "Camera";
  say("");
}

function take(blob, name) {
  leave();
  complain(null);
  if (!$("model").value) return complain(new Error("the server has no model that detects; build one: nas-build --weights demo"));
  const url = URL.createObjectURL(blob);
  if (blob.type.startsWith("video/")) {
    state.source = { kind: "video", url, name, loops: true };
    makeViewers();
    follow(state.source);
  } else {
    state.source = { kind: "picture", blob, url, name };
    makeViewers();
    refresh();
  }
  drawAll();
}

async function camera() {
  if (state.source?.stream) {
    leave();
    state.source = null;
    state.viewers = [];
    $("viewers").replaceChildren($drop);
    return drawAll();
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    leave();
    state.source = { kind: "video", stream };
    $("shot").hidden = false;
    $("camera").textContent = "Stop camera";
    makeViewers();
    follow(state.source);
  } catch (error) {
    complain(new Error(`no camera: ${error.message ?? "this page may not use it (it wants localhost or https)"}`));
  }
}

function shot() {
  const video = state.viewers[0]?.media;
  if (!video?.videoWidth) return;
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => take(blob, "camera.jpg"), "image/jpeg", 0.95);
}

// --- wiring

const $drop = $("drop");
let later = 0;

async function loadModels() {
  try {
    state.colours = await ask("/api/colours");
    state.models = await ask("/api/models");
    complain(null);
  } catch (error) {
    complain(error);
    say("waiting for the server…");
    return setTimeout(loadModels, 2000);
  }
  say("");
  if (!state.models.length) {
    say("no model yet");
    setTimeout(loadModels, 3000);
  }
  for (const id of ["model", "second"]) {
    const options = state.models.map(({ name }) => new Option(name, name));
    $(id).replaceChildren(...options);
  }
  if (state.models.length > 1) $("second").selectedIndex = 1;
  $("compare").disabled = state.models.length < 2;
  useThresholds();
  drawAll();
}

function useThresholds() {
  const model = state.models.find(({ name }) => name === $("model").value);
  if (!model || state.touched) return;
  $("score").value = model.score_threshold;
  $("iou").value = model.iou_threshold;
}

function again() {
  useThresholds();
  $("second-label").hidden = !$("compare").checked;
  if (!state.source) return;
  makeViewers();
  drawAll();
  refresh();
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) take(file, file.name);
  $("file").value = "";
});
$("camera").addEventListener("click", camera);
$("shot").addEventListener("click", shot);
for (const id of ["model", "second", "compare"]) $(id).addEventListener("change", again);
for (const id of ["most", "zoom"]) $(id).addEventListener("input", drawAll);
for (const id of ["score", "iou"]) $(id).addEventListener("input", () => { state.touched = true; });
$("score").addEventListener("input", () => {
  drawAll();
  const known = state.viewers.every((viewer) => viewer.found && viewer.asked <= Number($("score").value));
  clearTimeout(later);
  if (!known) later = setTimeout(refresh, 250);
});
$("iou").addEventListener("input", () => {
  drawAll();
  clearTimeout(later);
  later = setTimeout(refresh, 250);
});
$("classes").addEventListener("change", ({ target }) => {
  if (target.checked) state.hidden.delete(target.dataset.name);
  else state.hidden.add(target.dataset.name);
  drawAll();
});
$("all").addEventListener("click", () => { state.hidden.clear(); drawAll(); });
$("none").addEventListener("click", () => {
  for (const tick of $("classes").querySelectorAll("input")) state.hidden.add(tick.dataset.name);
  drawAll();
});
$("download").addEventListener("click", () => {
  const results = state.viewers.map((viewer) => ({ ...viewer.found, source: state.source.name, detections: shown(viewer) }));
  const text = JSON.stringify(results.length === 1 ? results[0] : results, null, 2);
  const link = Object.assign(document.createElement("a"), { download: `${state.source.name}.json` });
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText($(button.dataset.of).textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1200);
  });
}
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) take(file, file.name || "pasted.png");
});
addEventListener("resize", drawAll);
loadModels();
