/** Models and routes: what answers each model now, and the place to switch it. */

import { get, remove, segment } from "./api.js";
import { confirm } from "./dialog.js";
import { announce, h, keyed, replace, setText } from "./dom.js";
import { count, fullMoment, listed, moment, setSpan } from "./format.js";
import { doings, LegList, legTarget, resolved, routeList, routeWords } from "./legs.js";
import { latest, onChanged, onOverview } from "./live.js";
import { empty, failure, heading, loading, section } from "./notices.js";
import { link } from "./router.js";
import { editRoute } from "./route_editor.js";
import { Table } from "./table.js";

const CHANGES = 200;

export const page = { name: "routes", title: "Models", mount };

function mount(root, { id: model }) {
  const view = new Routes(model);
  root.append(view.element);
  view.fetch();
  const stops = [
    onOverview(() => view.show()),
    onChanged((what) => {
      if (what === "routes" || what === null) view.fetch();
    }),
  ];
  return { refresh: () => view.fetch(), close: () => stops.forEach((stop) => stop()) };
}

class Routes {
  constructor(model) {
    this.model = model;
    this.routes = null;
    this.notice = h("div", { class: "card" }, loading());
    this.cards = h("ul", { class: "cards", id: "routes-list", "aria-label": "Models" });
    this.changes = new Table({
      id: "route-changes",
      caption: "Changes of routes, newest first",
      key: ({ id }) => id,
      cap: 10,
      none: empty("No route has been changed yet."),
      columns: [
        {
          title: "Model",
          make: (cell, change) =>
            cell.append(
              h("a", {
                class: "name",
                href: link("routes", change.model),
                title: change.model,
                text: change.model,
              }),
            ),
        },
        {
          title: "When",
          make: (cell, { at }) =>
            cell.append(h("span", { class: "nowrap", title: fullMoment(at), text: moment(at) })),
        },
        {
          title: "Who",
          make: (cell, { actor }) =>
            cell.append(h("span", { class: "actor", title: actor, text: who(actor) })),
        },
        {
          title: "From",
          wide: true,
          make: (cell, change) => setText(cell, routeWords(change.before, change.model)),
        },
        {
          title: "To",
          wide: true,
          make: (cell, change) => setText(cell, routeWords(change.after, change.model)),
        },
      ],
    });
    const add = h("button", {
      type: "button",
      class: "button primary",
      id: "add-route",
      text: "Add a model",
      on: { click: () => this.edit(null) },
    });
    const all =
      model === null ? null : h("a", { class: "button", href: link("routes"), text: "All models" });
    this.element = h(
      "div",
      {},
      heading(
        model ?? "Models and routes",
        "Clients name a model; here is what answers it. A switch is followed by the very next request, those that wait included.",
        ...[all, model === null ? add : null].filter(Boolean),
      ),
      h(
        "div",
        { class: "stack" },
        this.notice,
        this.cards,
        section("History of changes", "history", this.changes.element),
      ),
    );
  }

  async fetch() {
    try {
      const [routes, changes] = await Promise.all([
        get("routes"),
        get("route_changes", { query: { limit: CHANGES, model: this.model } }),
      ]);
      this.routes = new Map(routes.data.map((route) => [route.model, route]));
      this.changes.update(changes.data);
      this.show();
    } catch (error) {
      if (this.routes === null) {
        this.notice.hidden = false;
        replace(
          this.notice,
          failure(error, () => this.fetch()),
        );
      }
    }
  }

  show() {
    if (this.routes === null) return;
    const states = new Map(
      (latest()?.backends ?? []).map(({ backend, state }) => [backend, state]),
    );
    const waiting = waitingByModel(latest());
    const shown = [...this.routes.values()].filter(
      ({ model }) => this.model === null || model === this.model,
    );
    this.notice.hidden = shown.length > 0;
    if (!shown.length) {
      const hint = "Its requests wait until it has a route.";
      replace(
        this.notice,
        this.model === null
          ? empty("No model has a route yet.", "Add one, and its requests are answered.")
          : empty("This model has no route.", hint),
      );
      if (this.model !== null)
        this.notice.firstElementChild.append(
          h("button", {
            type: "button",
            class: "button primary",
            text: "Give it a route",
            on: { click: () => this.edit(null, this.model) },
          }),
        );
    }
    keyed(this.cards, shown, {
      key: ({ model }) => model,
      create: (route) => this.#card(route),
      update: (card, route) => this.#fill(card, route, states, waiting.get(route.model) ?? 0),
    });
  }

  async edit(route, model = null) {
    const backends = latest()?.backends ?? (await get("overview")).backends;
    const done = await editRoute({ route, model, routes: this.routes ?? new Map(), backends });
    if (done === null) return;
    announce(`The route of ${done} is changed.`);
    this.fetch();
  }

  #card({ model }) {
    const legs = new LegList(`Legs of ${model}`);
    const current = () => this.routes.get(model);
    const card = h(
      "li",
      { class: "card route", data: { model } },
      h(
        "div",
        { class: "route-head" },
        h(
          "div",
          { class: "route-title" },
          h("h2", {}, h("a", { class: "name", href: link("routes", model), text: model })),
          h("p", { class: "route-now" }),
        ),
        h(
          "div",
          { class: "actions" },
          h("button", {
            type: "button",
            class: "button small",
            "aria-label": `Switch ${model}`,
            text: "Switch",
            on: { click: () => this.edit(current()) },
          }),
          h("a", {
            class: "button small",
            href: link("playground", null, { model }),
            "aria-label": `Try ${model}`,
            text: "Try",
          }),
          h("button", {
            type: "button",
            class: "button small quiet",
            "aria-label": `Remove the route of ${model}`,
            text: "Remove",
            on: { click: () => this.#remove(model) },
          }),
        ),
      ),
      legs.element,
      h("p", { class: "hint route-more" }),
    );
    card.carpoolLegs = legs;
    return card;
  }

  #fill(card, route, states, waiting) {
    const { legs, via } = resolved(route.model, this.routes);
    card.carpoolLegs.show(route.model, legs, states);
    const now = card.querySelector(".route-now");
    const answering = answers(legs, states, route.model);
    setText(now, answering === null ? "Nothing answers now" : `Answered by ${answering}`);
    now.classList.toggle("bad", answering === null);
    const more = [];
    if (via.length) more.push(`Shares the route of ${via.join(", which shares that of ")}.`);
    if (route.cache_seconds) more.push(`Answers are kept for ${setSpan(route.cache_seconds)}.`);
    if (waiting) more.push(`${count(waiting)} waiting.`);
    setText(card.querySelector(".route-more"), more.join(" "));
  }

  async #remove(model) {
    const route = this.routes.get(model);
    const done = await confirm(`Remove the route of ${model}?`, {
      text: "New requests of this model are refused, and those that wait go on waiting until it has a route again.",
      details: [h("dl", { class: "change" }, h("dt", { text: "Now" }), routeList(route, model))],
      action: "Remove the route",
      danger: true,
      act: () => remove(`routes/${segment(model)}`),
    });
    if (!done) return;
    announce(`The route of ${model} is removed.`);
    this.fetch();
  }
}

function answers(legs, states, model) {
  const now = doings(legs, states);
  const found = legs
    .filter((leg, place) => now[place] === "answers")
    .map((leg) => legTarget(leg, model));
  return found.length ? listed([...new Set(found)]) : null;
}

function waitingByModel(overview) {
  const found = new Map();
  for (const { model, waiting } of overview?.queues ?? [])
    found.set(model, (found.get(model) ?? 0) + waiting);
  return found;
}

/** "key:018f… (Anna)" is "Anna". */
function who(actor) {
  const owner = /^key:\S+ \((.*)\)$/s.exec(actor);
  if (owner) return owner[1];
  return actor.startsWith("key:") ? `key ${actor.slice(4, 12)}…` : actor;
}
