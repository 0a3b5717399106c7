"use strict";
// Pointing at a line, or at its name, leaves the others grey; a click keeps it so, for fingers too.
for (const svg of document.querySelectorAll(".plot svg")) {
  const parts = [...svg.querySelectorAll('[id*="-line-"], [id*="-key-"]')];
  if (parts.length < 4) continue;
  const number = (part) => part.id.split("-").at(-1);
  let kept = null;
  const pick = (chosen) => {
    svg.classList.toggle("picked", chosen !== null);
    for (const part of parts) part.classList.toggle("on", number(part) === chosen);
  };
  for (const part of parts) {
    part.addEventListener("pointerenter", () => pick(number(part)));
    part.addEventListener("pointerleave", () => pick(kept));
    part.addEventListener("click", () => pick(kept = kept === number(part) ? null : number(part)));
  }
}
// On paper nothing can be unfolded.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
