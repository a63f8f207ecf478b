/** A row of buttons of which one is pressed: radio buttons, so the arrow keys move in it. */

import { freshId, h } from "./dom.js";

/** `options`: `[value, text]` pairs; `onChoose(value)` is called when another is chosen. */
export function choice({ label, options, value, onChoose }) {
  const name = freshId("choice");
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", { class: "unseen", text: label }),
    options.map(([one, text]) =>
      h(
        "label",
        { class: "choice-item" },
        h("input", {
          type: "radio",
          name,
          value: one,
          checked: one === value,
          on: { change: () => onChoose(one) },
        }),
        h("span", { text }),
      ),
    ),
  );
}
