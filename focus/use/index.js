"use strict";
const form = document.querySelector("form"), list = document.querySelector(".cards");
const all = [...list.children];
function apply() {
  const [by, sign] = form.elements.sort.value.split(":"), wanted = form.elements.decision.value;
  const shown = all.filter((card) => !wanted || card.dataset.decision === wanted);
  shown.sort((one, other) => sign * (one.dataset[by] - other.dataset[by]));
  list.replaceChildren(...shown);
  document.querySelector("output").textContent = `${shown.length} of ${all.length}`;
}
form.addEventListener("change", apply);
apply();
