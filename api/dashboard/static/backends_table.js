/** The backends with their engines, and the processes around them. */

import { h, keyed, setText } from "./dom.js";
import { Meter } from "./figure.js";
import { count, listed, percent } from "./format.js";
import { empty } from "./notices.js";
import { badge, setBadge } from "./status.js";
import { Table } from "./table.js";

const KINDS = {
  simulated: "simulated",
  vllm: "vLLM",
  openai: "OpenAI, live",
  openai_batch: "OpenAI, in batches",
  unknown: "not known here",
};
const STATES = { absent: "no worker" };

export class BackendsTable {
  constructor() {
    this.table = new Table({
      id: "backends-table",
      caption: "Backends and their engines",
      key: ({ backend }) => backend,
      none: empty("No backend is set up.", "Backends stand in carpool.toml; workers serve them."),
      columns: [
        {
          title: "Backend",
          make: (cell, { backend }) =>
            cell.append(
              h("span", { class: "name", text: backend }),
              h("span", { class: "cell-note" }),
            ),
          update: (cell, { kind }) => setText(cell.lastElementChild, KINDS[kind] ?? kind),
        },
        {
          title: "State",
          make: (cell, { state }) => cell.append(badge(state)),
          update: (cell, { state }) => setBadge(cell.firstElementChild, state, STATES[state]),
        },
        { title: "Runs", number: true, update: (cell, { runs }) => setText(cell, count(runs)) },
        {
          title: "In flight",
          number: true,
          ...metered("In flight of what fits", ({ in_flight: now, capacity }) => [
            capacity ? now / capacity : null,
            capacity ? `${count(now)} of ${count(capacity)}` : count(now),
          ]),
        },
        {
          title: "Engine runs",
          number: true,
          update: (cell, { engine }) => setText(cell, count(engine?.running)),
        },
        {
          title: "Engine waits",
          number: true,
          update: (cell, { engine }) => setText(cell, count(engine?.waiting)),
        },
        {
          title: "KV cache",
          number: true,
          ...metered("KV cache in use", ({ engine }) => [
            engine?.kv_cache_usage ?? null,
            percent(engine?.kv_cache_usage),
          ]),
        },
        {
          title: "Prefix hits",
          number: true,
          ...metered("Prefix cache hits", ({ engine }) => [
            engine?.prefix_cache_hit_rate ?? null,
            percent(engine?.prefix_cache_hit_rate),
          ]),
        },
      ],
    });
    this.element = this.table.element;
    this.processes = h("ul", { class: "facts-line", id: "processes", "aria-label": "Processes" });
  }

  show({ backends, processes }) {
    this.table.update(backends);
    keyed(this.processes, processes, {
      key: ({ kind }) => kind,
      create: () => h("li", {}),
      update: (element, process) => setText(element, said(process)),
    });
  }
}

function said({ kind, live, paused, dead }) {
  const name = { api: "API", worker: "Workers", jobs: "Jobs" }[kind] ?? kind;
  const parts = [`${count(live)} live`];
  if (paused) parts.push(`${count(paused)} paused`);
  if (dead) parts.push(`${count(dead)} dead`);
  return `${name}: ${listed(parts)}`;
}

function metered(label, read) {
  return {
    make: (cell) => {
      cell.carpoolMeter = new Meter(label);
      cell.append(cell.carpoolMeter.element);
    },
    update: (cell, item) => cell.carpoolMeter.show(...read(item)),
  };
}
