// Where pictures come from, and what each control does.

import { complain, drawAll, element, say, shown } from "./draw.js";
import { $, ask, detect, state } from "./server.js";

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
