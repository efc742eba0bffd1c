const root = document.currentScript.parentElement;
const input = root.querySelector("input"), select = root.querySelector("select");
function show() {
  const tokens = frames[select ? select.selectedIndex : 0][input.value].split("|");
  let k = 0;
  input.setAttribute("aria-valuetext", tokens[0]);
  for (const e of root.querySelectorAll("[data-move]")) {
    const filled = e.dataset.move.replace(/[?]/g, () => tokens[k++]);
    if (e.tagName === "path") e.setAttribute("d", filled); else e.textContent = filled;
  }
}
for (const control of [input, select]) if (control) control.addEventListener("input", show);
show();
