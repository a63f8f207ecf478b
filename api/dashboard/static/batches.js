/** Batches: how far each is, how fast it goes, and when it will be done. */

import { BatchView } from "./batch.js";
import { batchName, BatchProgress, OPEN } from "./batch_progress.js";
import { h, setFigure, setText } from "./dom.js";
import { Filters, teamNames } from "./filters.js";
import { ago, count, fullMoment, span } from "./format.js";
import { onChanged, onOverview } from "./live.js";
import { empty, heading } from "./notices.js";
import { PagesList } from "./pages_list.js";
import { link } from "./router.js";
import { badge, setBadge, words } from "./status.js";

const REFRESH_MILLISECONDS = 3000;
const STATUSES = [
  "validating",
  "in_progress",
  "finalizing",
  "completed",
  "failed",
  "expired",
  "cancelling",
  "cancelled",
];

export const page = { name: "batches", title: "Batches", mount };

function mount(root, { id, query }) {
  if (id !== null) return new BatchView(root, id);
  let asked = Date.now();
  const filters = new Filters({
    page: "batches",
    label: "Narrow the batches",
    query,
    fields: [
      {
        name: "status",
        label: "State",
        options: [["", "Any"], ...STATUSES.map((status) => [status, words(status)])],
      },
      { name: "team", label: "Team", placeholder: "Any", suggestions: teamNames },
    ],
    onChange: () => list.restart(),
  });
  const list = new PagesList({
    path: "batches",
    query: () => filters.values(),
    table: {
      id: "batches-table",
      caption: "Batches, newest first",
      key: ({ id: one }) => one,
      none: empty(
        "No batch here.",
        "Batches come in through the OpenAI Batch API, or by carpool's own command for bulk jobs.",
      ),
      columns: [
        {
          title: "Batch",
          make: (cell, batch) =>
            cell.append(
              h("a", {
                class: "name",
                href: link("batches", batch.id),
                title: batch.id,
                text: batchName(batch),
              }),
              h("span", { class: "cell-note", text: batch.model ?? batch.endpoint }),
            ),
        },
        {
          title: "Team",
          make: (cell, { team }) =>
            cell.append(h("span", { class: "name", title: team, text: team })),
        },
        {
          title: "State",
          make: (cell, { status }) => cell.append(badge(status)),
          update: (cell, { status }) => setBadge(cell.firstElementChild, status),
        },
        {
          title: "Progress",
          make: (cell, batch) => {
            cell.carpoolProgress = new BatchProgress(`Progress of ${batchName(batch)}`);
            cell.append(cell.carpoolProgress.element);
          },
          update: (cell, batch) => cell.carpoolProgress.show(batch),
        },
        {
          title: "Failed",
          number: true,
          update: (cell, batch) => setText(cell, count(batch.request_counts.failed)),
        },
        {
          title: "Done in",
          number: true,
          make: (cell) => cell.append(h("span", {}), h("span", { class: "cell-note" })),
          update: (cell, batch) => {
            setText(cell.firstElementChild, span(batch.eta_seconds));
            setText(
              cell.lastElementChild,
              batch.lines_per_second ? `${batch.lines_per_second.toFixed(1)} lines/s` : "",
            );
          },
        },
        {
          title: "Created",
          number: true,
          update: (cell, batch) =>
            setFigure(cell, ago(batch.created_at), fullMoment(batch.created_at)),
        },
      ],
    },
  });
  root.append(heading("Batches"), h("div", { class: "section" }, filters.element, list.element));
  list.restart();
  const stops = [
    onChanged((what) => (what === "batches" || what === null) && list.refresh()),
    onOverview(() => {
      const due = Date.now() - asked >= REFRESH_MILLISECONDS;
      if (!due || !list.items.some(({ status }) => OPEN.has(status))) return;
      asked = Date.now();
      list.refresh();
    }),
  ];
  return {
    refresh: () => list.refresh(),
    move: (wanted) => {
      filters.set(wanted);
      list.restart();
      return true;
    },
    close: () => {
      list.close();
      stops.forEach((stop) => stop());
    },
  };
}
