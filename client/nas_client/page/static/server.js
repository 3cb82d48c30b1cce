// What is shown is a filter of what was found: the server is asked once, with a low score, and sliders answer by themselves.

const ASKED_SCORE = 0.05;
export const $ = (id) => document.getElementById(id);

export const state = {
  models: [], // as of /api/models
  colours: [], // {fill, ink} by label
  source: null, // {kind: "picture", blob, url, name} or {kind: "video", video, stop}
  viewers: [], // {model, figure, media, svg, caption, found, asked}
  hidden: new Set(), // names of classes
  touched: false, // whether somebody has set a threshold; until then the model's are taken
};

// --- the server

export async function ask(path, options) {
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

export async function detect(viewer, blob, stages) {
  const { asked, text } = query(viewer.model, stages);
  const started = performance.now();
  const found = await ask(`/api/detect?${text}`, { method: "POST", body: blob });
  found.ms.round_trip = performance.now() - started;
  viewer.found = found;
  viewer.asked = asked;
}
