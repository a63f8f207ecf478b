/** One request's whole story. */

import { get, remove } from "./api.js";
import { confirm } from "./dialog.js";
import { announce, h, keyed, replace, setAttribute, setFigure, setText } from "./dom.js";
import { count, exact, fullMoment, money, moment, NONE, shortId, span } from "./format.js";
import { failure, heading, loading, section } from "./notices.js";
import { link } from "./router.js";
import { badge, setBadge, tone } from "./status.js";

const REFRESH_MILLISECONDS = 1500;
const OPEN = new Set(["queued", "in_progress"]);
const CUT = 20_000;

export class RequestView {
  constructor(root, id) {
    this.id = id;
    this.request = null;
    this.closed = false;
    this.body = h("div", {}, heading("Request"), h("div", { class: "card" }, loading()));
    root.append(
      h("p", { class: "back" }, h("a", { href: link("requests"), text: "All requests" })),
      this.body,
    );
    this.timer = setInterval(() => {
      if (this.request !== null && OPEN.has(this.request.status) && !document.hidden)
        this.refresh();
    }, REFRESH_MILLISECONDS);
    this.refresh();
  }

  async refresh() {
    try {
      const found = await get(`requests/${encodeURIComponent(this.id)}`);
      if (!this.closed) this.#show(found);
    } catch (error) {
      if (this.closed || this.request !== null) return;
      const hint = error.status === 404 ? h("p", { class: "hint mono wrap", text: this.id }) : null;
      replace(
        this.body,
        heading("Request"),
        h(
          "div",
          { class: "card" },
          failure(error, () => this.refresh()),
          hint,
        ),
      );
    }
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
  }

  #show(request) {
    const first = this.request === null;
    this.request = request;
    if (first) this.#make(request);
    setBadge(this.badge, request.status);
    this.cancel.hidden = !OPEN.has(request.status);
    this.#showWait(request.waits);
    keyed(this.facts, facts(request), {
      key: ({ name }) => name,
      create: ({ name, href }) =>
        h(
          "div",
          {},
          h("dt", { text: name }),
          h("dd", {}, href === null ? h("span") : h("a", { href })),
        ),
      update: (element, { text, title }) =>
        setFigure(element.lastElementChild.firstElementChild, text, title),
    });
    keyed(this.timeline, request.timeline, {
      key: ({ at, event, epoch }) => [at, event, epoch].join("\n"),
      create: (event) => step(event, request.timeline[0].at),
      // A claim is told in other words once it is over.
      update: (element, { text }) => setText(element.firstElementChild, text),
    });
    this.#showBodies(request);
  }

  #make(request) {
    this.badge = badge(request.status);
    this.cancel = h("button", {
      type: "button",
      class: "button",
      id: "cancel-request",
      text: "Cancel",
      on: { click: () => this.#cancel() },
    });
    this.wait = h(
      "div",
      { class: "card wait", id: "request-wait" },
      h("p", { class: "wait-text" }),
      h("dl", { class: "figures" }),
    );
    this.facts = h("dl", { class: "facts" });
    this.timeline = h("ol", { class: "timeline", id: "timeline", "aria-label": "Timeline" });
    this.bodies = h("div", { class: "bodies" });
    this.bodiesKey = null;
    replace(
      this.body,
      heading(
        "Request",
        h(
          "span",
          { class: "under" },
          this.badge,
          h("span", { class: "mono wrap", id: "request-shown-id", text: request.id }),
        ),
        this.cancel,
      ),
      h(
        "div",
        { class: "stack" },
        this.wait,
        section("Timeline", "story", h("div", { class: "card" }, this.timeline)),
        section("Facts", "facts", h("div", { class: "card" }, this.facts)),
        section("Bodies", "bodies", this.bodies),
      ),
    );
  }

  #showWait(waits) {
    this.wait.hidden = !waits;
    if (!waits) return;
    const [text, figures] = this.wait.children;
    setText(text, waits.text);
    const items = [
      ["Place in the queue", waits.place === null ? NONE : count(waits.place)],
      ["Answered in about", span(waits.eta_seconds)],
    ];
    keyed(figures, items, {
      key: ([name]) => name,
      create: ([name]) =>
        h(
          "div",
          { class: "figure" },
          h("dt", { class: "figure-name", text: name }),
          h("dd", { class: "figure-value" }),
        ),
      update: (element, [, value]) => setText(element.lastElementChild, value),
    });
  }

  #showBodies(request) {
    const { hidden, body, response, error } = request;
    const key = JSON.stringify([hidden, request.status]);
    if (key === this.bodiesKey) return;
    this.bodiesKey = key;
    if (hidden?.length) {
      replace(
        this.bodies,
        h(
          "div",
          { class: "card" },
          h("p", {
            id: "bodies-hidden",
            text: "What was asked and answered is hidden: this key may not see bodies.",
          }),
          h(
            "p",
            { class: "hint" },
            "A key made by ",
            h("code", { text: "carpool keys create --admin --bodies" }),
            " may.",
          ),
        ),
      );
      return;
    }
    const parts = [
      ["Asked", body],
      ["Answered", response],
      ["Error", error],
    ].filter(([, value]) => value !== null && value !== undefined);
    replace(
      this.bodies,
      parts.map(([title, value]) => printed(title, value)),
    );
  }

  async #cancel() {
    const done = await confirm("Cancel this request?", {
      text: "It will not be answered; whoever waits for it is told.",
      action: "Cancel the request",
      danger: true,
      act: () => remove(`requests/${encodeURIComponent(this.id)}`),
    });
    if (!done) return;
    announce("The request is cancelled.");
    this.refresh();
  }
}

function facts(request) {
  const { cost } = request;
  const found = [
    ["Model", request.model],
    ["Team", request.team],
    ["Person", request.person],
    ["Class", request.class],
    ["Endpoint", request.endpoint],
    [
      "Answered by",
      request.backend &&
        (request.upstream && request.upstream !== request.model
          ? `${request.backend} as ${request.upstream}`
          : request.backend),
    ],
    ["Why there", request.reason],
    [
      "Attempts",
      request.attempts === undefined || request.attempts === null ? null : count(request.attempts),
    ],
    ["Received", moment(request.created_at), fullMoment(request.created_at)],
    ["Deadline", request.deadline && moment(request.deadline), fullMoment(request.deadline)],
    [
      "Batch",
      request.batch && shortId(request.batch),
      request.batch,
      link("batches", request.batch),
    ],
    ["Line", request.custom_id],
    ["Paid", cost && money(cost.paid), cost && exact(cost.paid, "dollars")],
    ["At list price", cost && money(cost.listed), cost && exact(cost.listed, "dollars")],
  ];
  return found
    .filter(([, text]) => text !== null && text !== undefined && text !== "")
    .map(([name, text, title = "", href = null]) => ({ name, text, title, href }));
}

function step(event, since) {
  const where = [
    event.backend,
    event.worker,
    event.run && shortId(event.run),
    event.epoch === null || event.epoch === undefined ? null : `claim ${event.epoch}`,
  ]
    .filter(Boolean)
    .join(" · ");
  const item = h(
    "li",
    { class: "step", data: { event: event.event, tone: tone(event.event) } },
    h("p", { class: "step-text" }),
    h(
      "p",
      { class: "step-when" },
      h("time", {
        datetime: new Date(event.at * 1000).toISOString(),
        title: fullMoment(event.at),
        text: moment(event.at),
      }),
      event.at > since ? h("span", { text: `after ${span(event.at - since)}` }) : null,
    ),
    where ? h("p", { class: "step-where mono", text: where }) : null,
    event.error ? h("p", { class: "step-error", text: event.error }) : null,
  );
  setAttribute(item, "title", event.run ?? null);
  return item;
}

function printed(title, value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  const shown = text.length > CUT ? `${text.slice(0, CUT)}\n…` : text;
  const pre = h("pre", { tabindex: "0", "aria-label": title, text: shown });
  const all =
    text.length > CUT
      ? h("button", {
          type: "button",
          class: "button small",
          text: `Show all ${count(text.length)} characters`,
          on: {
            click: () => {
              setText(pre, text);
              all.remove();
            },
          },
        })
      : null;
  return h("section", { class: "card document" }, h("h3", { text: title }), pre, all);
}
