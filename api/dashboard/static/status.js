/** States in words: a badge says what it means, its colour only repeats it. */

import { h, setAttribute, setText } from "./dom.js";

const TONES = {
  up: "good",
  live: "good",
  completed: "good",
  succeeded: "good",
  delivered: "good",
  down: "bad",
  dead: "bad",
  failed: "bad",
  expired: "bad",
  lost: "bad",
  failed_attempt: "bad",
  paused: "warn",
  draining: "warn",
  cancelling: "warn",
  cancelled: "warn",
  absent: "warn",
  in_progress: "busy",
  running: "busy",
  claimed: "busy",
  first_token: "busy",
  finalizing: "busy",
  validating: "busy",
};

/** "good", "bad", "warn", "busy" or "plain". */
export function tone(state) {
  return TONES[state] ?? "plain";
}

/** "in_progress" is "in progress". */
export function words(state) {
  return String(state).replaceAll("_", " ");
}

export function badge(state, text = words(state)) {
  return h("span", { class: "badge", "data-tone": tone(state), text });
}

export function setBadge(element, state, text = words(state)) {
  setAttribute(element, "data-tone", tone(state));
  setText(element, text);
}
