/** The form to sign in: an admin's key, which goes to the server once and is kept nowhere. */

import { h, icon, setText } from "./dom.js";
import { signIn } from "./session.js";

/** The form; `why` says what happened before, if anything. */
export function showLogin(why) {
  document.title = "Sign in · Carpool";
  const key = h("input", {
    id: "login-key",
    type: "password",
    name: "key",
    autocomplete: "current-password",
    spellcheck: "false",
    required: true,
    "aria-describedby": "login-hint login-error",
  });
  const error = h("p", { id: "login-error", class: "form-error", role: "alert" });
  const button = h("button", {
    id: "login-submit",
    type: "submit",
    class: "button primary",
    text: "Sign in",
  });
  const form = h(
    "form",
    { class: "login-form", "aria-label": "Sign in", on: { submit } },
    h("label", { for: "login-key", text: "Admin key" }),
    key,
    h(
      "p",
      { id: "login-hint", class: "hint" },
      "One made by ",
      h("code", { text: "carpool keys create --admin" }),
      ".",
    ),
    error,
    button,
  );
  return h(
    "main",
    { class: "login", id: "content" },
    h(
      "div",
      { class: "login-box" },
      h("div", { class: "brand large" }, icon("logo"), h("span", { text: "Carpool" })),
      h("h1", { text: "Sign in" }),
      why === null ? null : h("p", { class: "notice", role: "status", text: why }),
      form,
    ),
  );

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    setText(error, "");
    try {
      await signIn(key.value.trim());
    } catch (failure) {
      setText(error, said(failure));
      key.removeAttribute("aria-invalid");
      if (failure.status === 401) key.setAttribute("aria-invalid", "true");
      key.select();
      key.focus();
    } finally {
      button.disabled = false;
    }
  }
}

function said(failure) {
  if (failure.status === 401) return "This key is not known, or it was revoked.";
  if (failure.status === 403) return "This is a team's key. The dashboard needs an admin's.";
  return failure.message;
}
