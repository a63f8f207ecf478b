/** What waits now, by model, class and team, each with the reason. */

import { h, setFigure, setText } from "./dom.js";
import { count, exact, span } from "./format.js";
import { empty } from "./notices.js";
import { link } from "./router.js";
import { Table } from "./table.js";

export class QueuesTable {
  constructor() {
    const seconds = (name) => (cell, item) =>
      setFigure(cell, span(item[name]), exact(item[name], "s"));
    this.table = new Table({
      id: "queues-table",
      caption: "What waits, by model, class and team",
      key: (item) => [item.model, item.class, item.team].join("\n"),
      none: empty(
        "The queue is empty.",
        "Requests appear here as soon as they wait for an engine.",
      ),
      columns: [
        {
          title: "Model",
          make: (cell, item) =>
            cell.append(
              h("a", {
                href: link("routes", item.model),
                class: "name",
                title: item.model,
                text: item.model,
              }),
              h("span", { class: "cell-note", text: item.class }),
            ),
        },
        {
          title: "Team",
          make: (cell, item) =>
            cell.append(
              item.team === null
                ? h("span", { class: "muted", text: "others" })
                : h("a", {
                    class: "name",
                    title: item.team,
                    href: link("requests", null, {
                      team: item.team,
                      model: item.model,
                      status: "queued",
                    }),
                    text: item.team,
                  }),
            ),
        },
        {
          title: "Waiting",
          number: true,
          update: (cell, item) => setText(cell, count(item.waiting)),
        },
        {
          title: "In flight",
          number: true,
          update: (cell, item) => setText(cell, count(item.in_flight)),
        },
        { title: "Oldest", number: true, update: seconds("oldest_seconds") },
        { title: "Done in", number: true, update: seconds("drain_seconds") },
        {
          title: "Why it waits",
          wide: true,
          update: (cell, item) => setText(cell, item.waiting ? (item.text ?? "") : ""),
        },
      ],
    });
    this.element = this.table.element;
  }

  show(queues) {
    this.table.update(
      [...queues].sort(
        (a, b) => b.waiting - a.waiting || b.in_flight - a.in_flight || compare(a, b),
      ),
    );
  }
}

function compare(a, b) {
  return `${a.model}\n${a.class}\n${a.team}` < `${b.model}\n${b.class}\n${b.team}` ? -1 : 1;
}
