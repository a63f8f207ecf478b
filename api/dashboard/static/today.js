/** What today's requests cost, and what they did not. */

import { h, keyed, setFigure } from "./dom.js";
import { Figure } from "./figure.js";
import { count, exact, money, percent, short } from "./format.js";

const MEANS = {
  own: "answered by your own engines",
  window: "in batches, at a lower price",
  prefix: "prefixes that the provider had cached",
  cache: "answers given again from the cache",
  shared: "identical requests computed once",
};

export class Today {
  constructor() {
    this.saved = new Figure("Saved", { id: "figure-saved" });
    this.paid = new Figure("Paid", { id: "figure-paid" });
    this.requests = new Figure("Requests", { id: "figure-today-requests" });
    this.tokens = new Figure("Tokens in", { id: "figure-today-input" });
    this.written = new Figure("Tokens out", { id: "figure-today-output" });
    this.means = h("ul", { class: "means", "aria-label": "By what it was saved" });
    this.element = h(
      "div",
      { class: "card today" },
      h(
        "dl",
        { class: "figures" },
        [this.saved, this.paid, this.requests, this.tokens, this.written].map(
          ({ element }) => element,
        ),
      ),
      this.means,
    );
    this.saved.element.classList.add("strong");
  }

  show(today) {
    const listPrice = today.paid + today.saved;
    this.saved.show(
      money(today.saved),
      exact(today.saved, "dollars"),
      listPrice
        ? `${percent(today.saved / listPrice)} of the list price`
        : "nothing had a price yet",
    );
    this.paid.show(money(today.paid), exact(today.paid, "dollars"), "to providers");
    this.requests.show(
      short(today.requests),
      count(today.requests),
      today.failed ? `${count(today.failed)} failed` : "none failed",
    );
    const cached = today.input_tokens ? today.cached_tokens / today.input_tokens : 0;
    this.tokens.show(
      short(today.input_tokens),
      count(today.input_tokens),
      `${percent(cached)} from a cache`,
    );
    this.written.show(short(today.output_tokens), count(today.output_tokens), "generated");
    const means = Object.keys(MEANS)
      .map((name) => ({ name, dollars: today.saved_by?.[name] ?? 0 }))
      .filter(({ dollars }) => dollars > 0);
    keyed(this.means, means, {
      key: ({ name }) => name,
      create: ({ name }) =>
        h("li", {}, h("span", { class: "means-sum" }), h("span", { text: MEANS[name] })),
      update: (element, { dollars }) =>
        setFigure(element.firstElementChild, money(dollars), exact(dollars, "dollars")),
    });
    this.means.hidden = means.length === 0;
  }
}
