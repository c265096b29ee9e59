"use strict";
// Keeps a page up to date: the server sends those of its parts that have changed, made safe by its templates.
(() => {
  const HIDDEN_MS = 15000;
  const state = document.getElementById("connection");
  let source = null;
  let hiding = 0;

  const say = (text, off) => {
    if (!state) return;
    state.querySelector(".pulse").classList.toggle("off", off);
    state.querySelector("span:last-child").textContent = text;
  };
  // What a reader has opened, checked or scrolled stays so.
  const kept = (part) => ({
    open: [...part.querySelectorAll("details[open] > summary")].map((node) => node.textContent),
    checked: [...part.querySelectorAll("input[type=checkbox]:checked")].map((node) => node.value),
    scrolled: [...part.querySelectorAll("pre.log")].map((node) => [node.dataset.log, node.scrollTop, node.scrollTop + node.clientHeight >= node.scrollHeight - 4]),
  });
  const restore = (part, before) => {
    part.querySelectorAll("details > summary").forEach((node) => {
      if (before.open.includes(node.textContent)) node.parentNode.open = true;
    });
    part.querySelectorAll("input[type=checkbox]").forEach((node) => { node.checked = before.checked.includes(node.value); });
    part.querySelectorAll("pre.log").forEach((node) => {
      const found = before.scrolled.find((each) => each[0] === node.dataset.log);
      node.scrollTop = !found || found[2] ? node.scrollHeight : found[1];
    });
  };
  const update = (event) => {
    for (const [id, html] of Object.entries(JSON.parse(event.data))) {
      const part = document.getElementById(id);
      if (!part) { location.reload(); return; } // it has become another kind of page
      const before = kept(part);
      part.innerHTML = html;
      restore(part, before);
    }
    document.documentElement.dataset.updates = String(Number(document.documentElement.dataset.updates || 0) + 1);
  };
  const open = () => {
    if (source) return;
    source = new EventSource("events" + location.search);
    source.onopen = () => say("live", false);
    source.onmessage = update;
    source.onerror = () => say("no connection to the launcher; `launcher view` shows the folder again", true);
  };
  const close = () => { if (source) source.close(); source = null; };
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(close, HIDDEN_MS); else open();
  });
  addEventListener("pagehide", close); // a browser opens few connections to one server, and may keep this page
  addEventListener("pageshow", open);
  document.querySelectorAll("form[data-now] select").forEach((node) => node.addEventListener("change", () => node.form.requestSubmit()));
  document.querySelectorAll("pre.log").forEach((node) => { node.scrollTop = node.scrollHeight; });
})();
