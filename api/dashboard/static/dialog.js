/** Dialogs over the page; the focus returns to where it was. */

import { freshId, h, icon, setText } from "./dom.js";

/**
 * Open a dialog. `content` are nodes; what `close(value)` of the given function is called with
 * comes back, null where it was put away.
 */
export function open(title, make, { id = freshId("dialog"), wide = false } = {}) {
  const before = document.activeElement;
  return new Promise((resolve) => {
    let answer = null;
    const close = (value = null) => {
      answer = value;
      dialog.close();
    };
    const heading = h("h2", { id: `${id}-title`, text: title });
    const dialog = h(
      "dialog",
      { id, class: wide ? "dialog wide" : "dialog", "aria-labelledby": `${id}-title` },
      h(
        "div",
        { class: "dialog-head" },
        heading,
        h(
          "button",
          {
            type: "button",
            class: "button bare",
            "aria-label": "Close",
            on: { click: () => close() },
          },
          icon("close"),
        ),
      ),
      make(close, (text) => setText(heading, text)),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * Ask before something is done, and do it: `act()` may fail, which is said in the dialog. True
 * where it was done.
 */
export function confirm(title, { text, details = [], action, danger = false, act }) {
  return open(title, (close) => {
    const error = h("p", { class: "form-error", role: "alert" });
    const cancel = h("button", {
      type: "button",
      class: "button",
      text: "Back",
      on: { click: () => close() },
    });
    const done = h("button", {
      type: "submit",
      class: danger ? "button danger" : "button primary",
      text: action,
    });
    return h(
      "form",
      {
        class: "dialog-body",
        on: {
          submit: async (event) => {
            event.preventDefault();
            done.disabled = true;
            setText(error, "");
            try {
              await act();
              close(true);
            } catch (failure) {
              setText(error, failure.message);
              done.disabled = false;
            }
          },
        },
      },
      h("p", { text }),
      details,
      error,
      h("div", { class: "dialog-foot" }, cancel, done),
    );
  });
}
