"use strict";
// One question at a time. A stroke is kept as its points, in pixels of the face, so that it can be
// undone, and taken up again after the page, the browser or the server was closed.
const find = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
let face = find("#face");
const marks = find("#marks"), stage = find("#stage"), ring = find("#ring");
// Kept by the processor, from where it is sent.
const PEN = marks.getContext("2d", { willReadFrequently: true });
const COLOUR = "#19e3ff"; // neither faces nor the colour map of the maps have it
const RETRY = 2000; // milliseconds
const VIEW = { x: 0, y: 0, scale: 1 };
const pointers = new Map();
const loaded = new Map(); // id of a face -> promise of its picture
let annotator = null, question = null, work = null, tool = "brush", stroke = null, pinch = null;
let busy = false, shownAt = 0, penSeen = false, feedback = null;

// A reload keeps the name of the tab, another tab has its own.
const tab = sessionStorage.getItem("tab") || Math.random().toString(36).slice(2) + Date.now();
sessionStorage.setItem("tab", tab);
// A page that is closed leaves its faces to the annotator's other tabs; one that the browser takes
// out again asks anew.
addEventListener("pagehide", () => navigator.sendBeacon("leave", JSON.stringify({ annotator, tab })));
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

const wait = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

function say(text, isWrong = false) {
  for (const place of all("[role=status]")) {
    place.textContent = text;
    place.classList.toggle("wrong", isWrong);
  }
}

function hold(isBusy) {
  busy = isBusy;
  find("#work").setAttribute("aria-busy", isBusy);
}

// Goes on until the server has answered: it may be started again.
async function post(path, body) {
  for (;;) {
    let reason = "the server does not answer.";
    try {
      const response = await fetch(path, { method: "POST", body: JSON.stringify({ annotator, tab, ...body }) });
      if (response.ok) return await response.json();
      reason = await response.text();
      if (response.status === 400) throw new Error(reason);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
    say(`Not saved yet: ${reason} What you did is kept on this page, which tries again.`, true);
    await wait(RETRY);
  }
}

// Drafts, so that a started face can be taken up again.
const draftName = () => `focus ${annotator} ${question.id} ${question.round}`;

function keep() {
  try {
    localStorage.setItem(draftName(), JSON.stringify({ ...work, undone: [], seconds: seconds() }));
  } catch { /* its room is full: the page itself still has it */ }
}

function draft() {
  const empty = { strokes: [], undone: [], answer: null, confidence: null, seconds: 0 };
  return { ...empty, ...JSON.parse(localStorage.getItem(draftName())) };
}

// Only while the page is in sight.
const seconds = () => work.seconds + (shownAt ? (performance.now() - shownAt) / 1000 : 0);

document.addEventListener("visibilitychange", () => {
  if (!work || feedback) return;
  work.seconds = seconds();
  shownAt = document.hidden ? 0 : performance.now();
  keep();
});

// By its id: a server that was started again with more faces numbers them anew.
function load({ number, id }) {
  if (!loaded.has(id)) {
    loaded.set(id, fetch(`face/${number}`).then(async (response) => {
      if (!response.ok) throw new Error(await response.text());
      // Painted already, so that nothing is left to do when its turn comes.
      const picture = await createImageBitmap(await response.blob());
      const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
      canvas.getContext("2d").drawImage(picture, 0, 0);
      canvas.setAttribute("role", "img");
      return canvas;
    }));
    loaded.get(id).catch(() => loaded.delete(id));
  }
  return loaded.get(id);
}

async function show(state) {
  hold(true);
  work = null; // it belongs to the question before
  annotator = state.annotator;
  question = state.question;
  find("#start").hidden = Boolean(annotator);
  find("#work").hidden = !question;
  find("#progress").hidden = !annotator;
  find("#end").hidden = !annotator || Boolean(question);
  if (!annotator) return find("#start [name]").focus();
  tell(state);
  if (!question) return end(state);
  let picture;
  try {
    picture = await load(question);
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer." : `${error.message} The next one follows.`, true);
    await wait(RETRY);
    return show(await post("ask", {}));
  }
  work = draft();
  for (const id of loaded.keys()) {
    if (id !== question.id && id !== state.after?.id) loaded.delete(id);
  }
  marks.width = picture.width;
  marks.height = picture.height;
  face.replaceWith(picture);
  face = picture;
  face.id = "face";
  face.setAttribute("aria-label", `Face ${state.done + 1}`);
  feedback = null;
  find("#told").hidden = true;
  find("#practice").hidden = question.round !== "practice";
  find("#practice").textContent =
    `Practice ${state.practice[0] + 1} of ${state.practice[1]}: afterwards you are told whether you were right.`;
  fit();
  redraw();
  update();
  shownAt = document.hidden ? 0 : performance.now();
  if (state.after) load(state.after).catch(() => {});
  stage.focus({ preventScroll: true });
  hold(false);
}

function tell(state) {
  const total = state.done + state.left, left = state.pace * state.left;
  const time = left < 90 ? `${Math.round(left)} s` : `${Math.round(left / 60)} min`;
  find("#counts").textContent = `${state.done} of ${total} faces, ${state.left} left` +
    (state.pace ? ` · ${Math.round(state.pace)} s a face, about ${time} to go` : "");
  find("progress").value = total ? state.done / total : 1;
  find("#who").textContent = annotator;
  find("#leave").hidden = state.fixed;
}

function end(state) {
  find("#end p").textContent = `You have answered all ${state.done} faces. You can close the page.`;
  find("#end h2").focus();
}

function update() {
  for (const [name, value] of Object.entries({ ...work, tool })) {
    for (const button of all(`[data-${name}]`)) button.ariaPressed = button.dataset[name] === String(value);
  }
  find("[data-do=undo]").disabled = !work.strokes.length;
  find("[data-do=redo]").disabled = !work.undone.length;
  find("#next").disabled = !complete();
}

const complete = () => feedback || (work && work.answer && work.confidence);

function set(name, value) {
  if (!work || busy || feedback) return;
  work[name] = value;
  say("");
  update();
  keep();
}

async function submit() {
  if (busy) return;
  if (!complete()) {
    return say(work.answer ? "Say how sure you are: 1, 2 or 3." : "Say first whether it is real (R) or synthetic (S).");
  }
  hold(true);
  try {
    if (feedback) return await show(feedback);
    const { id, round } = question, { answer, confidence } = work, name = draftName();
    const mark = work.strokes.length ? marks.toDataURL("image/png") : "";
    keep();
    const state = await post("answer", { id, round, answer, confidence, seconds: seconds(), mark });
    localStorage.removeItem(name);
    say(state.counts ? "" : "This face was answered before; the first answer counts.");
    if (!state.label) return await show(state);
    const right = state.label === answer;
    feedback = state;
    find("#told").textContent = `${right ? "Right" : "Wrong"}: this face is ${state.label}.`;
    find("#told").classList.toggle("wrong", !right);
    find("#told").hidden = false;
    find("#next").focus();
  } catch (error) {
    say(`Not taken: ${error.message}`, true);
  } finally {
    hold(false);
  }
}

function draw(own, from = 0) {
  Object.assign(PEN, { strokeStyle: COLOUR, lineWidth: own.width, lineCap: "round", lineJoin: "round" });
  PEN.globalCompositeOperation = own.erase ? "destination-out" : "source-over";
  PEN.beginPath();
  const points = own.points.slice(Math.max(0, from - 1));
  points.forEach(([x, y], at) => (at ? PEN.lineTo(x, y) : PEN.moveTo(x, y)));
  if (points.length === 1) PEN.lineTo(...points[0]);
  PEN.stroke();
}

function redraw() {
  PEN.clearRect(0, 0, marks.width, marks.height);
  work.strokes.forEach((own) => draw(own));
}

function undo(from, to) {
  if (!work?.[from].length || busy || feedback) return;
  work[to].push(work[from].pop());
  redraw();
  update();
  keep();
}

const brush = () => find("#size").value / 100 * Math.max(face.width, face.height);

function place(event) {
  const box = stage.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function onFace(event) {
  const [x, y] = place(event);
  return [(x - VIEW.x) / VIEW.scale, (y - VIEW.y) / VIEW.scale].map((each) => Math.round(10 * each) / 10);
}

stage.addEventListener("pointerdown", (event) => {
  if (!work || busy || feedback) return;
  event.preventDefault();
  stage.focus({ preventScroll: true });
  stage.setPointerCapture(event.pointerId);
  penSeen ||= event.pointerType === "pen";
  pointers.set(event.pointerId, place(event));
  const moves = event.button === 1 || event.shiftKey || (penSeen && event.pointerType === "touch");
  if (pointers.size > 1 || moves) {
    // The first finger of two has begun a stroke that nobody meant.
    if (stroke) work.strokes.pop();
    stroke = null;
    pinch = gesture();
    redraw();
    return update();
  }
  if (event.button === 2) return;
  // The other end of a pen has button 5.
  stroke = { erase: tool === "eraser" || event.button === 5, width: Math.round(brush()), points: [onFace(event)] };
  work.strokes.push(stroke);
  work.undone = [];
  draw(stroke);
  update();
});

stage.addEventListener("pointermove", (event) => {
  circle(event);
  if (!pointers.has(event.pointerId)) return;
  pointers.set(event.pointerId, place(event));
  if (pinch) {
    const now = gesture();
    zoom(now.spread / pinch.spread, pinch.x, pinch.y, now.x - pinch.x, now.y - pinch.y);
    pinch = now;
  } else if (stroke) {
    const had = stroke.points.length, between = event.getCoalescedEvents?.() ?? [];
    stroke.points.push(...(between.length ? between : [event]).map(onFace));
    draw(stroke, had);
  }
});

stage.onpointerup = stage.onpointercancel = (event) => {
  pointers.delete(event.pointerId);
  pinch = pinch && pointers.size ? gesture() : null;
  if (stroke) keep();
  stroke = null;
};
stage.onpointerleave = () => { ring.hidden = true; };
stage.oncontextmenu = (event) => event.preventDefault();

function gesture() {
  const [[x, y], [u, v] = [x, y]] = pointers.values();
  return { x: (x + u) / 2, y: (y + v) / 2, spread: Math.hypot(x - u, y - v) || 1 };
}

function circle(event) {
  const [x, y] = place(event), side = brush() * VIEW.scale;
  ring.hidden = event.pointerType === "touch";
  ring.style.width = ring.style.height = `${side}px`;
  ring.style.transform = `translate(${x - side / 2}px, ${y - side / 2}px)`;
}

const fitting = () => Math.min(stage.clientWidth / face.width, stage.clientHeight / face.height);

function fit() {
  VIEW.scale = fitting();
  VIEW.x = (stage.clientWidth - VIEW.scale * face.width) / 2;
  VIEW.y = (stage.clientHeight - VIEW.scale * face.height) / 2;
  turn();
}

function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2, dx = 0, dy = 0) {
  const least = fitting(), scale = Math.min(Math.max(VIEW.scale * factor, least), 16 * least);
  if (scale === least) return fit();
  VIEW.x = x + dx - (x - VIEW.x) * scale / VIEW.scale;
  VIEW.y = y + dy - (y - VIEW.y) * scale / VIEW.scale;
  VIEW.scale = scale;
  turn();
}

function turn() {
  find("#paper").style.transform = `translate(${VIEW.x}px, ${VIEW.y}px) scale(${VIEW.scale})`;
  find("#zoom").textContent = `${Math.round(100 * VIEW.scale / fitting())} %`;
}

stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), ...place(event));
}, { passive: false });
new ResizeObserver(() => { if (work) fit(); }).observe(stage);

const ACTIONS = {
  undo: () => undo("strokes", "undone"), redo: () => undo("undone", "strokes"),
  in: () => zoom(1.5), out: () => zoom(1 / 1.5), fit,
};
const choose = (name) => { tool = name; if (work) update(); };
const resize = (step) => { find("#size").value = Number(find("#size").value) + step; };
const KEYS = {
  r: () => set("answer", "real"), s: () => set("answer", "synthetic"),
  1: () => set("confidence", 1), 2: () => set("confidence", 2), 3: () => set("confidence", 3),
  b: () => choose("brush"), e: () => choose("eraser"), "[": () => resize(-1), "]": () => resize(1),
  z: (event) => ACTIONS[event.shiftKey ? "redo" : "undo"](), y: ACTIONS.redo,
  "+": ACTIONS.in, "=": ACTIONS.in, "-": ACTIONS.out, 0: fit,
};
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

for (const button of all("[data-answer]")) button.onclick = () => set("answer", button.dataset.answer);
for (const button of all("[data-confidence]")) button.onclick = () => set("confidence", Number(button.dataset.confidence));
for (const button of all("[data-tool]")) button.onclick = () => choose(button.dataset.tool);
for (const button of all("[data-do]")) button.onclick = ACTIONS[button.dataset.do];
find("#next").onclick = submit;

document.addEventListener("keydown", (event) => {
  const target = event.target, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (find("#work").hidden || event.altKey || target.matches("input:not([type=range])")) return;
  if ((event.ctrlKey || event.metaKey) && !"zy".includes(key)) return;
  // On another button Enter is that button's.
  const own = target.closest("button, a, summary");
  if (key === "Enter" && (!own || (own.matches("[data-answer], [data-confidence]") && own.ariaPressed === "true"))) {
    event.preventDefault();
    return submit();
  }
  const arrow = target === stage && ARROWS[key];
  if (!arrow && !KEYS[key]) return;
  event.preventDefault();
  if (arrow) zoom(1, 0, 0, ...arrow.map((each) => 40 * each));
  else KEYS[key](event);
});

find("#start").addEventListener("submit", async (event) => {
  event.preventDefault();
  annotator = event.target.elements.annotator.value;
  try {
    const state = await post("ask", {});
    localStorage.setItem("annotator", state.annotator);
    say("");
    await show(state);
  } catch (error) {
    say(error.message, true);
  }
});
find("#leave").onclick = () => { localStorage.removeItem("annotator"); location.reload(); };

annotator = localStorage.getItem("annotator");
post("ask", {}).then(show, () => show({ annotator: null }));
