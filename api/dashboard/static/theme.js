/* Runs before the first paint, so that a page never flashes in the wrong colours. */
(() => {
  const KEY = "carpool-theme";
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // Storage can be forbidden; the system's colours are as good.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
