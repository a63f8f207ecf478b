/** Requests: found by id, team, state or model. */

import { h, setFigure, setText } from "./dom.js";
import { Filters, modelNames, teamNames } from "./filters.js";
import { ago, fullMoment, NONE, shortId, span } from "./format.js";
import { empty, heading } from "./notices.js";
import { PagesList } from "./pages_list.js";
import { RequestView } from "./request.js";
import { go, link } from "./router.js";
import { badge, setBadge, words } from "./status.js";

const STATUSES = ["queued", "in_progress", "completed", "failed", "cancelled", "expired"];
const REFRESH_MILLISECONDS = 5000;

export const page = { name: "requests", title: "Requests", mount };

function mount(root, { id, query }) {
  if (id !== null) return new RequestView(root, id);
  const filters = new Filters({
    page: "requests",
    label: "Narrow the requests",
    query,
    fields: [
      { name: "team", label: "Team", placeholder: "Any", suggestions: teamNames },
      {
        name: "status",
        label: "State",
        options: [["", "Any"], ...STATUSES.map((status) => [status, words(status)])],
      },
      { name: "model", label: "Model", placeholder: "Any", suggestions: modelNames },
      { name: "batch", label: "Batch", placeholder: "batch_…" },
    ],
    onChange: () => list.restart(),
  });
  const list = new PagesList({
    path: "requests",
    query: () => filters.values(),
    table: {
      id: "requests-table",
      caption: "Requests, newest first",
      key: ({ id: one }) => one,
      none: empty("No request here.", "Either none was made, or the fields above leave none."),
      columns: [
        {
          title: "Request",
          make: (cell, one) =>
            cell.append(
              h("a", {
                class: "name mono",
                href: link("requests", one.id),
                title: one.id,
                text: shortId(one.id),
              }),
              h("span", { class: "cell-note", text: one.class }),
            ),
        },
        {
          title: "State",
          make: (cell, { status }) => cell.append(badge(status)),
          update: (cell, { status }) => setBadge(cell.firstElementChild, status),
        },
        {
          title: "Model",
          make: (cell, { model }) =>
            cell.append(h("span", { class: "name", title: model, text: model })),
        },
        {
          title: "Team",
          make: (cell, { team, person }) =>
            cell.append(
              h("span", { class: "name", title: team, text: team }),
              person ? h("span", { class: "cell-note", text: person }) : "",
            ),
        },
        {
          title: "Answered by",
          make: (cell) =>
            cell.append(h("span", { class: "name" }), h("span", { class: "cell-note" })),
          update: (cell, { backend, upstream }) => {
            setText(cell.firstElementChild, backend ?? NONE);
            setText(cell.lastElementChild, upstream ?? "");
          },
        },
        {
          title: "Took",
          number: true,
          update: (cell, one) => setText(cell, took(one)),
        },
        {
          title: "Received",
          number: true,
          update: (cell, one) => setFigure(cell, ago(one.created_at), fullMoment(one.created_at)),
        },
      ],
    },
  });
  root.append(
    heading("Requests"),
    h("div", { class: "section" }, finder(), filters.element, list.element),
  );
  list.restart();
  const timer = setInterval(() => {
    if (!document.hidden) list.refresh();
  }, REFRESH_MILLISECONDS);
  return {
    refresh: () => list.refresh(),
    move: (wanted) => {
      filters.set(wanted);
      list.restart();
      return true;
    },
    close: () => {
      list.close();
      clearInterval(timer);
    },
  };
}

function finder() {
  const input = h("input", {
    id: "request-id",
    type: "search",
    placeholder: "req_…",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
  });
  return h(
    "form",
    {
      class: "finder",
      role: "search",
      "aria-label": "Find a request by its id",
      on: {
        submit: (event) => {
          event.preventDefault();
          go(link("requests", input.value.trim()));
        },
      },
    },
    h(
      "div",
      { class: "field" },
      h("label", { for: "request-id", text: "Find by id" }),
      h(
        "div",
        { class: "joined" },
        input,
        h("button", { type: "submit", class: "button", text: "Find" }),
      ),
    ),
  );
}

/** Both times are whole seconds. */
function took({ created_at: received, completed_at: ended }) {
  if (!ended) return NONE;
  return ended === received ? "< 1 s" : span(ended - received);
}
