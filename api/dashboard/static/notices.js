/** What stands where there is nothing to show: still loading, nothing there, or a failure. */

import { h } from "./dom.js";

export function loading(what = "Loading…") {
  return h("p", { class: "placeholder loading", role: "status", text: what });
}

/** `hint` says what would have to happen for something to be here. */
export function empty(text, hint = null) {
  return h(
    "div",
    { class: "placeholder" },
    h("p", { class: "placeholder-text", text }),
    hint === null ? null : h("p", { class: "hint" }, hint),
  );
}

/** A failure in words; `again`, if given, tries once more. */
export function failure(error, again = null) {
  return h(
    "div",
    { class: "placeholder failure", role: "alert" },
    h("p", { class: "placeholder-text", text: error.message }),
    again === null
      ? null
      : h("button", {
          type: "button",
          class: "button small",
          text: "Try again",
          on: { click: again },
        }),
  );
}

/** A page's head: its one h1, what it is about in a sentence, and what can be done. */
export function heading(title, lead = null, ...actions) {
  return h(
    "div",
    { class: "page-head" },
    h(
      "div",
      { class: "page-title" },
      h("h1", { tabindex: "-1", text: title }),
      lead === null ? null : h("p", { class: "lead" }, lead),
    ),
    actions.length ? h("div", { class: "actions" }, actions) : null,
  );
}

/** A part of a page under a title of its own. */
export function section(title, id, ...children) {
  return h(
    "section",
    { class: "section", "aria-labelledby": `${id}-title`, id },
    h("div", { class: "section-head" }, h("h2", { id: `${id}-title`, text: title })),
    children,
  );
}
