// Runs before the first paint, so that the page never flashes in the wrong colours.
"use strict";
(() => {
  try {
    const chosen = localStorage.getItem("everpool.theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden: then the system's choice holds.
  }
})();
