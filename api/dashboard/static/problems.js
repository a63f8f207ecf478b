/** What someone must act on, in words, before all else. */

import { h, icon, keyed, setText } from "./dom.js";
import { many, span } from "./format.js";
import { link } from "./router.js";

export class Problems {
  constructor() {
    this.title = h("h2", { id: "problems-title", class: "unseen" });
    this.calm = h(
      "p",
      { class: "calm", id: "no-problems" },
      icon("check"),
      h("span", { text: "Nothing needs you now." }),
    );
    this.list = h("ul", { class: "problems" });
    this.element = h(
      "section",
      { id: "problems", "aria-labelledby": "problems-title", "aria-live": "polite" },
      this.title,
      this.calm,
      this.list,
    );
  }

  show(problems) {
    this.calm.hidden = problems.length > 0;
    setText(this.title, problems.length ? many(problems.length, "problem") : "Problems");
    keyed(this.list, problems, {
      key: ({ code, model, backend }) => [code, model, backend].join("\n"),
      create: (problem) =>
        h(
          "li",
          { class: "problem", data: { code: problem.code } },
          icon("alert"),
          h(
            "div",
            {},
            h("p", { class: "problem-text" }),
            h(
              "p",
              { class: "problem-more" },
              h("span", { class: "problem-since", "aria-live": "off" }),
              where(problem),
            ),
          ),
        ),
      update: (element, { text, since_seconds: since }) => {
        setText(element.querySelector(".problem-text"), text);
        setText(
          element.querySelector(".problem-since"),
          since === undefined || since === null ? "" : `For ${span(since)}`,
        );
      },
    });
  }
}

function where({ model, backend }) {
  if (model) return h("a", { href: link("routes", model), text: "See its route" });
  if (backend) return h("a", { href: link("workers"), text: "See the workers" });
  return null;
}
