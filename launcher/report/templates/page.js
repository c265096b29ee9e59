"use strict";
// What every page has: buttons that copy, and the values of marks. Texts reach the page through textContent only.
(() => {
  // A button with `data-copy` copies the text of the element with that id.
  const copied = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    const text = source.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no clipboard for pages from a file, in some browsers
      getSelection().selectAllChildren(source);
      if (!document.execCommand("copy")) return "Press Ctrl+C";
    }
    return "Copied";
  };
  document.querySelectorAll("button[data-copy]").forEach((button) => {
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      button.textContent = await copied(button);
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  });

  // An element with `data-tip` shows that text beside it under the pointer, with the keyboard's focus, and when tapped.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);
  const marked = (event) => event.target instanceof Element ? event.target.closest("[data-tip]") : null;
  const show = (mark) => {
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const place = mark.getBoundingClientRect();
    const left = place.left + place.width / 2 - tip.offsetWidth / 2;
    const above = place.top - tip.offsetHeight - 8;
    tip.style.left = Math.max(8, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (above < 8 ? place.bottom + 8 : above) + "px";
  };
  for (const name of ["pointerover", "focusin", "click"]) document.addEventListener(name, (event) => show(marked(event)));
  document.addEventListener("focusout", () => show(null));
  document.addEventListener("scroll", () => show(null), { passive: true, capture: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") show(null); });
})();
