"use strict";
// Only what is looked at is made: a page of pictures or of rows at a time.
const CARDS = 48, ROWS = 100;
const PARTS = ["image", "CAM of the decision", "human map"];
const find = (selector) => document.querySelector(selector);
const data = JSON.parse(find("#data").textContent);
const hasCams = "entropy" in data;
const labelName = (label) => ({ 0: "real", 1: "synthetic" })[label] ?? "unlabelled";

const items = data.path.map((path, row) => ({
  row,
  path,
  label: labelName(data.label[row]),
  generator: data.generators[data.generator[row]],
  set: data.sets[data.set[row]],
  score: data.score[row],
  ...(hasCams && {
    entropy: data.entropy[row],
    "entropy z": data.entropy_z[row],
    "CAM range": data.cam_range[row],
  }),
  outcome: data.outcomes[data.outcome[row]],
  // How far the score is on the wrong side of the threshold, so that all errors come first.
  error: data.label[row] < 0 ? null
    : (data.score[row] - data.threshold) * (data.label[row] ? -1 : 1),
  picture: null,
}));
data.shown.forEach((row, at) => {
  items[row].picture = data.pictures[at];
  items[row].parts = data.parts[at];
});
const COLUMNS = ["path", "label", "generator", "set", "outcome", "score"]
  .concat(hasCams ? ["entropy", "entropy z", "CAM range"] : []);

const controls = find("#controls");
let chosen = [], pictured = [], current = 0;

function element(tag, text, attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.textContent = text;
  return made;
}

const isWrong = (item) => item.outcome === "missed" || item.outcome === "false alarm";
const digits = (value) => typeof value === "number" ? value.toFixed(4) : value;

function alternative(item) {
  const parts = PARTS.slice(0, item.parts).join(", ");
  return `${item.generator}, ${item.outcome}: ${parts}; score ${item.score.toFixed(3)}` +
    (hasCams ? `, CAM entropy ${item.entropy.toFixed(3)}` : "");
}

function card(item, place) {
  const button = element("button", "", { type: "button", className: "card" });
  const image = element("img", "", { loading: "lazy", decoding: "async", alt: alternative(item) });
  image.width = 112 * item.parts;
  image.height = 112;
  image.src = item.picture;
  const numbers = `score ${item.score.toFixed(2)}` +
    (hasCams ? ` · h ${item.entropy.toFixed(2)}` : "");
  const kind = element("span", item.generator === item.outcome ? "" : `${item.generator} · `);
  kind.append(element("b", item.outcome, { className: isWrong(item) ? "wrong" : "" }));
  button.append(image, kind, element("span", numbers));
  button.addEventListener("click", () => enlarge(place));
  const entry = document.createElement("li");
  entry.dataset.row = item.row;
  entry.append(button);
  return entry;
}

function line(item) {
  const row = document.createElement("tr");
  row.append(...COLUMNS.map((name) => element("td", digits(item[name]))));
  if (item.picture) {
    const link = element("button", item.path, { type: "button", className: "link" });
    link.addEventListener("click", () => enlarge(pictured.indexOf(item)));
    row.firstChild.replaceChildren(link);
  }
  if (isWrong(item)) row.children[COLUMNS.indexOf("outcome")].className = "wrong";
  return row;
}

// Adds the next page of a list; its button goes when all are there.
function grow(place, list, size, make, button) {
  const there = place.children.length;
  place.append(...list.slice(there, there + size).map((item, at) => make(item, there + at)));
  button.hidden = place.children.length >= list.length;
}

const moreCards = () => grow(find("#cards"), pictured, CARDS, card, find("#more-cards"));
const moreRows = () => grow(find("#scores tbody"), chosen, ROWS, line, find("#more-rows"));

function apply() {
  // Not by FormData, which leaves out what is disabled.
  const [order, label, generator, set, outcome] = ["sort", "label", "generator", "set", "outcome"]
    .map((name) => controls.elements[name].value);
  const [sort, sign] = order.split(":");
  const fits = (item) =>
    (!label || item.label === label) && (!generator || item.generator === generator) &&
    (!set || item.set === set) &&
    (!outcome || (outcome === "wrong" ? isWrong(item) : item.outcome === outcome));
  chosen = items.filter(fits);
  // What has no error, being unlabelled, comes last.
  chosen.sort((one, other) => one[sort] === null || other[sort] === null
    ? (one[sort] === null) - (other[sort] === null) || one.row - other.row
    : sign * (one[sort] - other[sort]) || one.row - other.row);
  pictured = chosen.filter((item) => item.picture);
  find("#count").textContent =
    `${chosen.length} of ${items.length} images, ${pictured.length} with a picture`;
  find("#cards").replaceChildren();
  find("#scores tbody").replaceChildren();
  moreCards();
  moreRows();
}

function enlarge(place) {
  current = place;
  const item = pictured[place];
  const dialog = find("#large");
  // The parts of the picture are squares side by side.
  dialog.querySelector(".parts").replaceChildren(...PARTS.slice(0, item.parts).map((name, at) => {
    const figure = document.createElement("figure");
    const image = element("img", "", { src: item.picture, alt: `${name} of ${item.path}` });
    image.style.objectPosition = `${100 * at / Math.max(1, item.parts - 1)}% 0`;
    figure.append(image, element("figcaption", name));
    return figure;
  }));
  dialog.querySelector("dl").replaceChildren(...COLUMNS.flatMap(
    (name) => [element("dt", name), element("dd", digits(item[name]) || "-")]));
  for (const button of dialog.querySelectorAll("button[value]")) {
    button.disabled = !pictured[place + Number(button.value)];
  }
  if (!dialog.open) dialog.showModal();
}

function move(step) {
  if (pictured[current + step]) enlarge(current + step);
}

function download() {
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const lines = [COLUMNS, ...chosen.map((item) => COLUMNS.map((name) => digits(item[name])))];
  const text = lines.map((cells) => cells.map(quoted).join(",")).join("\n");
  const link = element("a", "", { download: "images.csv" });
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.click();
}

function options(name, values) {
  const select = controls.elements[name];
  select.append(...values.filter(Boolean).map((value) => element("option", value, { value })));
  select.closest("label").hidden = values.length < 2;
}

options("label", [...new Set(items.map((item) => item.label))].sort());
options("generator", data.generators);
options("set", data.sets);
options("outcome", data.outcomes.filter((name) => items.some((item) => item.outcome === name)));
find("#scores thead tr").append(...COLUMNS.map((name) => element("th", name, { scope: "col" })));
controls.addEventListener("change", apply);
controls.addEventListener("submit", (event) => event.preventDefault());
find("#csv").addEventListener("click", (event) => {
  event.preventDefault();
  download();
});
find("#more-cards").addEventListener("click", moreCards);
find("#more-rows").addEventListener("click", moreRows);
for (const button of find("#large").querySelectorAll("button[value]")) {
  button.addEventListener("click", () => move(Number(button.value)));
}
find("#large").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight") move(1);
});
find("#large").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close();
});
apply();
controls.hidden = false;
performance.mark("usable");
