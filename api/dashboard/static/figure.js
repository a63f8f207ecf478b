/** Single figures with their names: the large one, and rows of smaller ones. */

import { h, setFigure } from "./dom.js";

/** A name and a figure; `show(text, exact, note)` changes it. */
export class Figure {
  constructor(name, { id = null, note = "" } = {}) {
    this.value = h("dd", { class: "figure-value", id });
    this.note = h("dd", { class: "figure-note", text: note });
    this.element = h(
      "div",
      { class: "figure" },
      h("dt", { class: "figure-name", text: name }),
      this.value,
      this.note,
    );
  }

  show(text, exact = "", note = null) {
    setFigure(this.value, text, exact);
    if (note !== null) setFigure(this.note, note);
  }
}

/** A share of something full, as a bar with its words: `update(share, text)`. */
export class Meter {
  constructor(label) {
    this.bar = h("div", { class: "meter-bar" });
    this.text = h("span", { class: "meter-text" });
    this.box = h(
      "div",
      {
        class: "meter",
        role: "meter",
        "aria-label": label,
        "aria-valuemin": "0",
        "aria-valuemax": "100",
      },
      this.bar,
    );
    this.element = h("div", { class: "metered" }, this.text, this.box);
  }

  show(share, text, exact = "") {
    setFigure(this.text, text, exact);
    this.box.hidden = share === null;
    if (share === null) return;
    const value = Math.min(Math.max(share, 0), 1) * 100;
    this.bar.style.width = `${value}%`;
    this.box.setAttribute("aria-valuenow", String(Math.round(value)));
    this.box.setAttribute("aria-valuetext", text);
  }
}
