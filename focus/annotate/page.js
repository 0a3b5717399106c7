"use strict";
// One question at a time. A stroke is kept as its points, in pixels of the face, so that it can be
// undone, and taken up again after the page, the browser or the server was closed.
const find = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const WORDS = JSON.parse(find("#words").textContent); // in the language of the browser
let face = find("#face");
const marks = find("#marks"), stage = find("#stage"), ring = find("#ring");
// Kept by the processor, from where it is sent.
const PEN = marks.getContext("2d", { willReadFrequently: true });
const COLOUR = "#19e3ff"; // neither faces nor the colour map of the maps have it
const CANNOT_JUDGE = "cannot judge";
const RETRY = 2000; // milliseconds
const VIEW = { x: 0, y: 0, scale: 1 };
const pointers = new Map();
const loaded = new Map(); // id of a face -> promise of its picture
// state: What the server said last. question: What is on the screen: the next face, or the last one to mend.
let annotator = null, state = null, question = null, work = null, tool = "brush", stroke = null, pinch = null;
let busy = false, shownAt = 0, penSeen = false, feedback = null;

// A reload keeps the name of the tab, another tab has its own.
const tab = sessionStorage.getItem("tab") || Math.random().toString(36).slice(2) + Date.now();
sessionStorage.setItem("tab", tab);
// A page that is closed leaves its faces to the annotator's other tabs; one that the browser takes
// out again asks anew.
addEventListener("pagehide", () => navigator.sendBeacon("leave", JSON.stringify({ annotator, tab })));
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

const wait = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

function word(key, values = {}) {
  return WORDS[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function say(text, isWrong = false) {
  for (const status of all("[role=status]")) {
    status.textContent = text;
    status.classList.toggle("wrong", isWrong);
  }
}

function hold(isBusy) {
  busy = isBusy;
  find("#work").setAttribute("aria-busy", isBusy);
}

// Goes on until the server has answered: it may be started again.
async function post(path, body) {
  for (;;) {
    let reason = word("no_server");
    try {
      const response = await fetch(path, { method: "POST", body: JSON.stringify({ annotator, tab, ...body }) });
      if (response.ok) return await response.json();
      reason = await response.text();
      if (response.status === 400) throw new Error(reason);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
    say(`${word("not_saved")} ${reason}`, true);
    await wait(RETRY);
  }
}

// Drafts, so that a started face can be taken up again.
const draftName = () => ["focus", annotator, question.id, question.round, question.mended || ""].join(" ").trim();
const lastName = () => `focus ${annotator} last`;

function store(name, content) {
  try {
    localStorage.setItem(name, JSON.stringify(content));
  } catch { /* its room is full: the page itself still has it */ }
}

function keep() {
  store(draftName(), { ...work, undone: [], seconds: seconds() });
}

function draft() {
  const empty = { strokes: [], undone: [], answer: null, confidence: null, seconds: 0, askedForMark: false };
  const answered = question.mended ? lastAnswer().work : {};
  return { ...empty, ...answered, ...JSON.parse(localStorage.getItem(draftName())) };
}

// What this browser has of the annotator's last answer, with its strokes; null if that was given in another one.
function lastAnswer() {
  const kept = JSON.parse(localStorage.getItem(lastName()));
  const { id, round, mended } = state?.last ?? {};
  return kept && kept.id === id && kept.round === round && kept.mended + 1 === mended ? kept : null;
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

async function show(next) {
  hold(true);
  work = null; // it belongs to the question before
  state = next;
  annotator = state.annotator;
  question = state.question;
  find("#start").hidden = Boolean(annotator);
  find("#progress").hidden = !annotator;
  if (!annotator) {
    find("#work").hidden = find("#end").hidden = true;
    return find("#start [name]").focus();
  }
  tell();
  return question ? ask() : end();
}

// Shows the face of the question, and what was done with it before.
async function ask() {
  hold(true);
  work = null;
  find("#end").hidden = true;
  find("#work").hidden = false;
  let picture;
  try {
    picture = await load(question);
  } catch (error) {
    say(error instanceof TypeError ? word("no_server") : `${error.message} ${word("next_follows")}`, true);
    await wait(RETRY);
    return show(await post("ask", {}));
  }
  work = draft();
  const wanted = [question, state.question, state.after, state.last].map((asked) => asked?.id);
  for (const id of loaded.keys()) {
    if (!wanted.includes(id)) loaded.delete(id);
  }
  marks.width = picture.width;
  marks.height = picture.height;
  face.replaceWith(picture);
  face = picture;
  face.id = "face";
  face.setAttribute("aria-label", word("face", { number: question.mended ? state.done : state.done + 1 }));
  feedback = null;
  find("#told").hidden = true;
  notice();
  fit();
  redraw();
  update();
  shownAt = document.hidden ? 0 : performance.now();
  if (state.after) load(state.after).catch(() => {});
  stage.focus({ preventScroll: true });
  hold(false);
}

function notice() {
  const [done, count] = state.practice;
  let text = "";
  if (question.mended) text = word("mending");
  else if (question.round === "practice") text = word("practice", { number: done + 1, count });
  find("#notice").hidden = !text;
  find("#notice").textContent = text;
}

// To the last answer, and back from it to the next face, with nothing changed.
async function back() {
  if (busy || feedback) return;
  if (question?.mended) {
    localStorage.removeItem(draftName());
    say("");
    return show(state);
  }
  if (!lastAnswer()) return;
  if (work) keep();
  say("");
  question = state.last;
  return ask();
}

function tell() {
  const { done, left, pace } = state, total = done + left, seconds = pace * left;
  const time = seconds < 90 ? word("in_seconds", { count: Math.round(seconds) }) :
    word("in_minutes", { count: Math.round(seconds / 60) });
  const counts = word("counts", { done, total, left });
  find("#counts").textContent = pace ? `${counts} · ${word("pace", { seconds: Math.round(pace), time })}` : counts;
  find("progress").value = total ? done / total : 1;
  find("#who").textContent = annotator;
  find("#leave").hidden = state.fixed;
}

function end() {
  find("#work").hidden = true;
  find("#end").hidden = false;
  find("#end p").textContent = word("all_done", { count: state.done });
  find("#back-at-end").hidden = !lastAnswer();
  find("#end h2").focus();
  hold(false);
}

function update() {
  for (const [name, value] of Object.entries({ ...work, tool })) {
    for (const button of all(`[data-${name}]`)) button.ariaPressed = button.dataset[name] === String(value);
  }
  find("[data-do=undo]").disabled = !work.strokes.length;
  find("[data-do=redo]").disabled = !work.undone.length;
  for (const button of all("[data-confidence]")) button.disabled = work.answer === CANNOT_JUDGE;
  find("#back").hidden = Boolean(feedback) || !lastAnswer();
  find("#back").textContent = word(question.mended ? "leave" : "back");
  find("#next span").textContent = word(question.mended ? "save" : "next");
  find("#next").disabled = !complete();
}

const complete = () => feedback || (work && work.answer && (work.confidence || work.answer === CANNOT_JUDGE));

// Strokes that were erased again mark nothing, though their edges leave a trace.
function isMarked() {
  if (!work.strokes.length) return false;
  const { data } = PEN.getImageData(0, 0, marks.width, marks.height);
  return data.some((value, index) => index % 4 === 3 && value > 127);
}

function set(name, value) {
  if (!work || busy || feedback || (name === "confidence" && work.answer === CANNOT_JUDGE)) return;
  work[name] = value;
  say("");
  update();
  keep();
}

async function submit() {
  if (busy) return;
  if (!complete()) {
    return say(word(work.answer ? "say_sure" : "say_answer"));
  }
  if (!feedback && work.answer === "synthetic" && !work.askedForMark && !isMarked()) {
    work.askedForMark = true;
    keep();
    return say(word("say_mark"));
  }
  hold(true);
  try {
    if (feedback) return await show(feedback);
    const { id, round, mended } = question, { answer } = work, name = draftName();
    const confidence = answer === CANNOT_JUDGE ? 0 : work.confidence;
    const mark = isMarked() ? marks.toDataURL("image/png") : "";
    keep();
    const answered = { id, round, mended, work: { ...work, undone: [], seconds: seconds() } };
    const next = await post("answer", { id, round, mended, answer, confidence, seconds: answered.work.seconds, mark });
    if (next.counts) store(lastName(), answered);
    localStorage.removeItem(name);
    say(next.counts ? "" : word("answered_before"));
    if (!next.label) return await show(next);
    feedback = next;
    update();
    const isRight = next.label === answer;
    let verdict = isRight ? "right" : "wrong";
    if (answer === CANNOT_JUDGE) verdict = "label";
    find("#told").textContent = word(`${verdict}_${next.label}`);
    find("#told").classList.toggle("wrong", verdict === "wrong");
    find("#told").hidden = false;
    find("#next").focus();
  } catch (error) {
    say(word("not_taken", { reason: error.message }), true);
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
  r: () => set("answer", "real"), s: () => set("answer", "synthetic"), c: () => set("answer", CANNOT_JUDGE),
  1: () => set("confidence", 1), 2: () => set("confidence", 2), 3: () => set("confidence", 3),
  b: () => choose("brush"), e: () => choose("eraser"), "[": () => resize(-1), "]": () => resize(1),
  z: (event) => ACTIONS[event.shiftKey ? "redo" : "undo"](), y: ACTIONS.redo,
  "+": ACTIONS.in, "=": ACTIONS.in, "-": ACTIONS.out, 0: fit, Backspace: back,
};
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

for (const button of all("[data-answer]")) button.onclick = () => set("answer", button.dataset.answer);
for (const button of all("[data-confidence]")) button.onclick = () => set("confidence", Number(button.dataset.confidence));
for (const button of all("[data-tool]")) button.onclick = () => choose(button.dataset.tool);
for (const button of all("[data-do]")) button.onclick = ACTIONS[button.dataset.do];
find("#next").onclick = submit;
find("#back").onclick = find("#back-at-end").onclick = back;

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
    const next = await post("ask", {});
    localStorage.setItem("annotator", next.annotator);
    say("");
    await show(next);
  } catch (error) {
    say(error.message, true);
  }
});
find("#leave").onclick = () => { localStorage.removeItem("annotator"); location.reload(); };

annotator = localStorage.getItem("annotator");
post("ask", {}).then(show, () => show({ annotator: null }));
