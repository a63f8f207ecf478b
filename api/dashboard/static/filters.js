/** A row of fields that narrow a list; what is chosen stands in the address. */

import { get } from "./api.js";
import { h } from "./dom.js";
import { go, link } from "./router.js";

/**
 * `fields`: `{name, label, options | suggestions, long, placeholder}`; `onChange()` is called when
 * `values()` has changed.
 */
export class Filters {
  constructor({ page, label, fields, query, onChange }) {
    this.page = page;
    this.controls = new Map();
    const change = () => {
      go(link(page, null, this.values()), { quietly: true });
      onChange();
    };
    const made = fields.map(({ name, label: text, options, long, placeholder, suggestions }) => {
      const id = `${page}-filter-${name}`;
      const control = options
        ? h(
            "select",
            { id },
            options.map(([value, words]) =>
              h("option", { value, text: words, selected: value === (query[name] ?? "") }),
            ),
          )
        : h("input", {
            id,
            type: "search",
            value: query[name] ?? "",
            placeholder,
            autocomplete: "off",
            spellcheck: "false",
            list: suggestions ? `${id}-known` : null,
          });
      control.addEventListener("change", change);
      this.controls.set(name, control);
      const known = suggestions ? h("datalist", { id: `${id}-known` }) : null;
      suggestions?.().then(
        (names) => known.append(...names.map((one) => h("option", { value: one }))),
        () => {},
      );
      return h(
        "div",
        { class: long ? "field long" : "field" },
        h("label", { for: id, text }),
        control,
        known,
      );
    });
    this.element = h(
      "form",
      {
        class: "filters",
        role: "search",
        "aria-label": label,
        on: {
          submit: (event) => {
            event.preventDefault();
            change();
          },
        },
      },
      made,
    );
  }

  values() {
    return Object.fromEntries(
      [...this.controls].map(([name, control]) => [name, control.value.trim()]),
    );
  }

  /** Take up another address of the same page. */
  set(query) {
    for (const [name, control] of this.controls) control.value = query[name] ?? "";
  }
}

export async function teamNames() {
  return (await get("teams")).data.map(({ id }) => id);
}

export async function modelNames() {
  return (await get("routes")).data.map(({ model }) => model);
}
