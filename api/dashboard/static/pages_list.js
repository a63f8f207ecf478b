/** A table over a list that the server gives page by page. */

import { get } from "./api.js";
import { h, replace, setText } from "./dom.js";
import { failure, loading } from "./notices.js";
import { Table } from "./table.js";

/**
 * `path` is asked with `query()`; the first page is asked for again by `refresh()`, which keeps
 * what was loaded after it. `table` are a Table's options.
 */
export class PagesList {
  constructor({ path, query, limit = 50, table, loaded = () => {} }) {
    Object.assign(this, { path, query, limit, loaded });
    this.items = [];
    this.asked = 0;
    this.last = null;
    this.table = new Table({ ...table, cap: Number.POSITIVE_INFINITY });
    this.notice = h("div", { class: "card" }, loading());
    this.more = h("button", {
      type: "button",
      class: "button",
      hidden: true,
      text: "Load more",
      on: { click: () => this.next() },
    });
    this.error = h("p", { class: "form-error", role: "alert" });
    this.element = h(
      "div",
      { class: "section" },
      this.notice,
      this.table.element,
      h("div", { class: "list-foot" }, this.more, this.error),
    );
    this.table.element.hidden = true;
  }

  /** The first page anew, for another query. */
  async restart() {
    this.items = [];
    this.more.hidden = true;
    this.table.element.hidden = true;
    this.notice.hidden = false;
    replace(this.notice, loading());
    await this.refresh();
  }

  async refresh() {
    this.asked += 1;
    const mine = this.asked;
    try {
      const found = await this.#page(null);
      if (mine !== this.asked) return;
      const known = this.items.length > found.data.length;
      const ids = new Set(found.data.map(({ id }) => id));
      const rest = known ? this.items.filter(({ id }) => !ids.has(id)) : [];
      // What was loaded further down stays only where it follows without a gap.
      const follows = known && this.items.some(({ id }) => ids.has(id));
      if (follows) this.#show([...found.data, ...rest], !this.more.hidden, this.last);
      else this.#show(found.data, found.has_more, found.last_id);
    } catch (error) {
      if (mine !== this.asked) return;
      if (this.items.length === 0) {
        this.notice.hidden = false;
        this.table.element.hidden = true;
        replace(
          this.notice,
          failure(error, () => this.restart()),
        );
      }
    }
  }

  async next() {
    const mine = this.asked;
    this.more.disabled = true;
    setText(this.error, "");
    try {
      const found = await this.#page(this.last);
      if (mine !== this.asked) return;
      this.#show([...this.items, ...found.data], found.has_more, found.last_id ?? this.last);
    } catch (error) {
      setText(this.error, error.message);
    } finally {
      this.more.disabled = false;
    }
  }

  /** Ask for nothing more. */
  close() {
    this.asked += 1;
  }

  #page(after) {
    return get(this.path, { query: { ...this.query(), limit: this.limit, after } });
  }

  /** `last` is where the next page begins: of many that do not fit, a page may show none. */
  #show(items, hasMore, last) {
    this.items = items;
    this.last = last;
    setText(this.more, items.length ? "Load more" : "Look further back");
    this.notice.hidden = true;
    this.table.element.hidden = false;
    this.table.update(items);
    this.more.hidden = !hasMore;
    this.loaded(items);
  }
}
