/** Tables that are updated in place, end in "show all", and are cards where there is no room. */

import { h, keyed, setText } from "./dom.js";
import { count } from "./format.js";

const CAP = 12;

/**
 * `columns`: `{title, number, wide, make(cell, item), update(cell, item)}`; `make` runs once for a
 * cell, `update` each time, so that no cell is made anew while someone reads it.
 */
export class Table {
  constructor({ id, caption, columns, key, none, cap = CAP }) {
    this.columns = columns;
    this.key = key;
    this.cap = cap;
    this.all = false;
    this.items = [];
    this.rows = h("tbody", { role: "rowgroup" });
    const heads = columns.map(({ title, number }) =>
      h("th", { scope: "col", role: "columnheader", class: number ? "number" : null, text: title }),
    );
    this.table = h(
      "table",
      { id, class: "table", role: "table" },
      h("caption", { class: "unseen", text: caption }),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
      this.rows,
    );
    this.more = h("button", {
      type: "button",
      class: "button small more",
      hidden: true,
      on: { click: () => this.#toggle() },
    });
    this.none = h("div", { class: "table-none", hidden: true }, none);
    this.element = h("div", { class: "table-box" }, this.table, this.none, this.more);
  }

  update(items) {
    this.items = items;
    const shown = this.all ? items : items.slice(0, this.cap);
    keyed(this.rows, shown, {
      key: this.key,
      create: (item) => this.#row(item),
      update: (row, item) => this.#fill(row, item),
    });
    this.table.hidden = items.length === 0;
    this.none.hidden = items.length > 0;
    this.more.hidden = items.length <= this.cap;
    if (!this.more.hidden)
      setText(
        this.more,
        this.all ? `Show the first ${this.cap}` : `Show all ${count(items.length)}`,
      );
  }

  #toggle() {
    this.all = !this.all;
    this.update(this.items);
  }

  #row(item) {
    return h(
      "tr",
      { role: "row" },
      this.columns.map(({ title, number, wide, make }) => {
        const cell = h("td", {
          role: "cell",
          class: [number && "number", wide && "wide"].filter(Boolean).join(" ") || null,
          "data-label": title,
        });
        make?.(cell, item);
        return cell;
      }),
    );
  }

  #fill(row, item) {
    this.columns.forEach(({ update }, place) => update?.(row.children[place], item));
  }
}
