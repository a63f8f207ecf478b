/** The stream of the overview: opened once for all pages, and opened again by itself. */

import { send } from "./api.js";
import { events } from "./sse.js";

const FIRST_DELAY_MILLISECONDS = 500;
const LONGEST_DELAY_MILLISECONDS = 10_000;
/** The server is heard each 15 seconds at least. */
const SILENCE_MILLISECONDS = 40_000;
/** A page that nobody sees costs the server nothing after this. */
const HIDDEN_MILLISECONDS = 300_000;

let overview = null;
let state = { name: "connecting", since: Date.now(), reason: null };
let stream = null;
let hiding = null;
const overviewListeners = new Set();
const changeListeners = new Set();
const stateListeners = new Set();

/** The newest overview, or null before the first. */
export function latest() {
  return overview;
}

/** `{name: "connecting" | "live" | "lost" | "resting", since: milliseconds, reason}` */
export function connection() {
  return state;
}

/** Call back with each overview, at once with the newest; returns how to end that. */
export function onOverview(listener) {
  overviewListeners.add(listener);
  if (overview !== null) listener(overview);
  return () => overviewListeners.delete(listener);
}

/** Call back with what has changed: "routes", "batches" or "workers", or null for anything. */
export function onChanged(listener) {
  changeListeners.add(listener);
  return () => changeListeners.delete(listener);
}

/** Call back at each change of the connection. */
export function onConnection(listener) {
  stateListeners.add(listener);
  return () => stateListeners.delete(listener);
}

export function start() {
  if (stream !== null) return;
  stream = new AbortController();
  keepOpen(stream);
}

export function stop() {
  stream?.abort();
  stream = null;
}

/** Forget the figures of the one who signed out. */
export function forget() {
  overview = null;
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(rest, HIDDEN_MILLISECONDS);
  else if (state.name === "resting") start();
});

function rest() {
  if (stream === null) return;
  stop();
  become("resting");
}

async function keepOpen(mine) {
  let delay = FIRST_DELAY_MILLISECONDS;
  let again = false;
  while (!mine.signal.aborted) {
    try {
      await listen(mine, () => {
        delay = FIRST_DELAY_MILLISECONDS;
        become("live");
        // What changed while the connection was away has been told to nobody.
        if (again) tell(changeListeners, null);
        again = true;
      });
      lost(null);
    } catch (error) {
      if (mine.signal.aborted || error.status === 401) return;
      lost(error.status ? error.message : null);
    }
    await pause(delay * (0.75 + Math.random() / 2), mine.signal);
    delay = Math.min(delay * 2, LONGEST_DELAY_MILLISECONDS);
  }
}

async function listen(mine, opened) {
  const one = new AbortController();
  const both = AbortSignal.any([one.signal, mine.signal]);
  let silence = setTimeout(() => one.abort(), SILENCE_MILLISECONDS);
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => one.abort(), SILENCE_MILLISECONDS);
  };
  try {
    const response = await send("GET", "events", { signal: both, accept: "text/event-stream" });
    opened();
    for await (const { event, data } of events(response, heard)) {
      if (event === "overview") {
        if (state.name !== "live") become("live");
        overview = JSON.parse(data);
        tell(overviewListeners, overview);
      } else if (event === "away") lost(JSON.parse(data).text);
      else if (event === "changed") tell(changeListeners, JSON.parse(data).what);
    }
  } finally {
    clearTimeout(silence);
  }
}

function lost(reason) {
  if (state.name === "lost") become("lost", state.since, reason);
  else become("lost", Date.now(), reason);
}

function become(name, since = Date.now(), reason = null) {
  state = { name, since, reason };
  tell(stateListeners, state);
}

function tell(listeners, value) {
  for (const listener of [...listeners]) {
    try {
      listener(value);
    } catch (error) {
      // One page's fault must not end the stream of all.
      console.error(error);
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    addEventListener("online", done);
    signal.addEventListener("abort", done);
  });
}
