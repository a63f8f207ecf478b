/** Light, dark, or as the system is; remembered in this browser. */

const KEY = "carpool-theme";
export const APPEARANCES = ["system", "light", "dark"];
const listeners = new Set();
const system = matchMedia("(prefers-color-scheme: dark)");
system.addEventListener("change", tell);

/** One of `APPEARANCES`. */
export function appearance() {
  return document.documentElement.dataset.theme ?? "system";
}

export function choose(wanted) {
  if (wanted === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = wanted;
  try {
    localStorage.setItem(KEY, wanted);
  } catch {
    // Not remembered, then.
  }
  tell();
}

/** Call back whenever the colours change; returns how to end that. */
export function onAppearance(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell() {
  for (const listener of listeners) listener();
}
