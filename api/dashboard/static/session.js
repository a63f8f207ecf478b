/** Who is signed in. The cookie itself is out of any script's reach. */

import { ask, setCsrf, whenUnauthorized } from "./api.js";

let current = null;
let ending = null;
const listeners = new Set();
whenUnauthorized(() => over());

/** The session object of the server, or null. */
export function session() {
  return current;
}

/** Call back with the session at each change; null where there is none any more. */
export function onSession(listener) {
  listeners.add(listener);
}

/** Take up the session that the browser has; false where it has none. */
export async function resume() {
  try {
    begin(await ask("GET", "session"));
    return true;
  } catch (error) {
    if (error.status === 401 || error.status === 403) return false;
    throw error;
  }
}

export async function signIn(key) {
  begin(await ask("POST", "session", { body: { key } }));
}

export async function signOut() {
  await ask("DELETE", "session").catch((error) => {
    if (error.status !== 401) throw error;
  });
  over();
}

function begin(found) {
  current = found;
  setCsrf(found.csrf);
  clearTimeout(ending);
  // setTimeout takes no more than 24 days.
  const milliseconds = Math.min(found.expires_at * 1000 - Date.now(), 2 ** 31 - 1);
  ending = setTimeout(over, Math.max(milliseconds, 0));
  tell();
}

function over() {
  if (current === null) return;
  current = null;
  setCsrf(null);
  clearTimeout(ending);
  tell();
}

function tell() {
  for (const listener of listeners) listener(current);
}
