/** The start: who is signed in sees the page of the address, others the form to sign in. */

import { replace } from "./dom.js";
import * as live from "./live.js";
import { showLogin } from "./login.js";
import { place } from "./router.js";
import { onSession, resume, session } from "./session.js";
import { Shell } from "./shell.js";

const root = document.getElementById("root");
let shell = null;
let holder = null;

onSession((now) => (now === null ? signedOut() : signedIn(now)));
document.getElementById("skip").addEventListener("click", (event) => {
  // Its own address would be taken for a page's.
  event.preventDefault();
  document.getElementById("content").focus();
});
addEventListener("hashchange", () => {
  if (session() !== null) shell.show(place());
});
begin();

async function begin() {
  try {
    if (!(await resume())) signedOut();
  } catch {
    signedOut("Carpool cannot be reached. Sign in once it can.");
  }
}

/** The page that was there is there again, unless another one signed in. */
function signedIn(now) {
  const same = holder !== null && holder.name === now.name && holder.team === now.team;
  const again = shell !== null && same && holder.sees_bodies === now.sees_bodies;
  if (!again) {
    shell?.close();
    live.forget();
    shell = new Shell(now);
  }
  holder = now;
  replace(root, shell.element);
  document.getElementById("skip").hidden = false;
  live.start();
  shell.show(place(), { again });
}

function signedOut(why = null) {
  live.stop();
  document.getElementById("skip").hidden = true;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  const expired = shell !== null && !shell.leaving;
  if (shell?.leaving) {
    shell.close();
    shell = null;
    holder = null;
  }
  replace(root, showLogin(why ?? (expired ? "Your session has ended. Sign in to go on." : null)));
  root.querySelector("input").focus();
}
