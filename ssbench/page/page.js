// The theme button: the browser's wish until pressed, then the other one, kept for the next visit where that is allowed.
"use strict";
(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const kept = { get() { try { return localStorage.getItem("theme"); } catch { return null; } },
                 set(name) { try { localStorage.setItem("theme", name); } catch { /* a private window */ } } };
  const show = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  if (kept.get() === "dark" || kept.get() === "light") root.dataset.theme = kept.get();
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; kept.set(root.dataset.theme); show(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  button.hidden = false;
  show();
  // A link to what lies inside a closed part opens it; printing opens all.
  const open = () => { const at = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
                       for (let e = at; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true; };
  addEventListener("hashchange", open);
  addEventListener("beforeprint", () => { for (const e of document.querySelectorAll("details")) e.open = true; });
  open();
})();
