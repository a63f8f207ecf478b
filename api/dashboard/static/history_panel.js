/** A chart of the last hour or day, by model, class, team or backend, with its switches. */

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { choice } from "./choice.js";
import { h } from "./dom.js";

const WINDOWS = [
  ["1h", "Hour"],
  ["24h", "Day"],
];
const REFETCH_MILLISECONDS = { "1h": 10_000, "24h": 60_000 };

/**
 * `path` is asked for `window` and `by`; `measures` are `{name, title, series(found), stacked,
 * format, none}`, of which `series` makes `[{name, values}]` of the answer.
 */
export class HistoryPanel {
  constructor({ id, title, path, bys, measures }) {
    this.path = path;
    this.window = "1h";
    this.by = bys[0][0];
    this.measures = measures;
    this.measure = measures[0];
    this.found = null;
    this.asked = 0;
    this.chart = new Chart({ id: `${id}-chart`, label: title });
    this.timer = setInterval(() => this.#due(), 1000);
    this.fetchedAt = 0;
    const set = (name) => (value) => {
      this[name] = value;
      this.fetch();
    };
    this.element = h(
      "section",
      { class: "section card panel", id, "aria-labelledby": `${id}-title` },
      h(
        "div",
        { class: "section-head" },
        h("h2", { id: `${id}-title`, text: title }),
        h(
          "div",
          { class: "switches" },
          choice({
            label: "Measure",
            options: measures.map(({ name, title: text }) => [name, text]),
            value: this.measure.name,
            onChoose: (name) => this.#see(name),
          }),
          choice({ label: "By", options: bys, value: this.by, onChoose: set("by") }),
          choice({
            label: "Over the last",
            options: WINDOWS,
            value: this.window,
            onChoose: set("window"),
          }),
        ),
      ),
      this.chart.element,
    );
    this.fetch();
  }

  async fetch() {
    this.asked += 1;
    const mine = this.asked;
    this.fetchedAt = Date.now();
    try {
      const found = await get(this.path, { query: { window: this.window, by: this.by } });
      if (mine !== this.asked) return;
      this.found = found;
      this.#show();
    } catch (error) {
      if (mine === this.asked) this.chart.fail(error, () => this.fetch());
    }
  }

  close() {
    this.asked += 1;
    clearInterval(this.timer);
    this.chart.close();
  }

  #due() {
    const old = Date.now() - this.fetchedAt >= REFETCH_MILLISECONDS[this.window];
    if (old && !document.hidden) this.fetch();
  }

  #see(name) {
    this.measure = this.measures.find((one) => one.name === name);
    this.#show();
  }

  #show() {
    if (this.found === null) return;
    const { series, stacked, format, none } = this.measure;
    this.chart.show({ at: this.found.at, series: series(this.found), stacked, format, none });
  }
}
