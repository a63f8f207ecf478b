/** Workers: live, draining, paused or dead, with their runs; drained and resumed here. */

import { get, post } from "./api.js";
import { confirm } from "./dialog.js";
import { announce, h, keyed, replace, setFigure, setText } from "./dom.js";
import { Meter } from "./figure.js";
import { ago, count, fullMoment, many, NONE, percent, shortId, span } from "./format.js";
import { onChanged, onOverview } from "./live.js";
import { empty, failure, heading, loading } from "./notices.js";
import { badge, setBadge } from "./status.js";

const REFRESH_MILLISECONDS = 2000;
const KINDS = [
  ["worker", "Workers"],
  ["api", "API processes"],
  ["jobs", "Job processes"],
];
const WORDS = { live: "live", draining: "draining", paused: "paused", dead: "dead" };

export const page = { name: "workers", title: "Workers", mount };

function mount(root) {
  const view = new Workers();
  root.append(view.element);
  view.fetch();
  let asked = Date.now();
  const stops = [
    onChanged((what) => (what === "workers" || what === null) && view.fetch()),
    onOverview(() => {
      if (Date.now() - asked < REFRESH_MILLISECONDS) return;
      asked = Date.now();
      view.fetch();
    }),
  ];
  const timer = setInterval(() => !document.hidden && view.fetch(), 10_000);
  return {
    refresh: () => view.fetch(),
    close: () => {
      clearInterval(timer);
      stops.forEach((stop) => stop());
    },
  };
}

class Workers {
  constructor() {
    this.items = null;
    this.notice = h("div", { class: "card" }, loading());
    this.groups = KINDS.map(([kind, title]) => {
      const list = h("ul", { class: "cards tight", "aria-labelledby": `group-${kind}` });
      const element = h(
        "section",
        { class: "section", hidden: true, "aria-labelledby": `group-${kind}` },
        h("h2", { id: `group-${kind}`, text: title }),
        list,
      );
      return { kind, list, element };
    });
    this.element = h(
      "div",
      {},
      heading(
        "Workers",
        "A drained worker finishes what it holds and claims nothing more; its engine stays loaded, so that it can be resumed at once.",
      ),
      h(
        "div",
        { class: "stack" },
        this.notice,
        this.groups.map(({ element }) => element),
      ),
    );
  }

  async fetch() {
    try {
      this.items = (await get("workers")).data;
    } catch (error) {
      if (this.items === null)
        replace(
          this.notice,
          failure(error, () => this.fetch()),
        );
      return;
    }
    this.notice.hidden = this.items.length > 0;
    if (!this.items.length)
      replace(
        this.notice,
        empty("No process is known.", "Workers are started by carpool worker --backend NAME."),
      );
    for (const { kind, list, element } of this.groups) {
      const mine = this.items.filter((item) => item.kind === kind);
      element.hidden = mine.length === 0;
      keyed(list, mine, {
        key: ({ id }) => id,
        create: (item) => this.#card(item),
        update: (card, item) => this.#fill(card, item),
      });
    }
  }

  #card(item) {
    const name = nameOf(item);
    const button = (act, text) =>
      h("button", {
        type: "button",
        class: "button small",
        data: { act },
        "aria-label": `${text} ${name}`,
        text,
        on: { click: () => this.#ask(item.id, act) },
      });
    return h(
      "li",
      { class: "card worker", data: { id: item.id } },
      h(
        "div",
        { class: "worker-head" },
        h(
          "div",
          { class: "worker-title" },
          h("h3", { text: item.backend ?? item.host }),
          h("p", {
            class: "hint",
            title: item.id,
            text: item.backend ? `${item.host}, process ${item.pid}` : `process ${item.pid}`,
          }),
        ),
        badge(item.state),
        item.kind === "worker"
          ? h("div", { class: "actions" }, button("drain", "Drain"), button("resume", "Resume"))
          : null,
      ),
      h("p", { class: "hint worker-beat" }),
      h("ul", { class: "runs", "aria-label": `Runs of ${name}` }),
    );
  }

  #fill(card, item) {
    setBadge(card.querySelector(".badge"), item.state, WORDS[item.state]);
    card.dataset.state = item.state;
    const beat = card.querySelector(".worker-beat");
    const silent =
      item.state === "dead"
        ? `Silent for ${span(item.heartbeat_seconds)}`
        : `Heard ${item.heartbeat_seconds < 2 ? "just now" : `${span(item.heartbeat_seconds)} ago`}`;
    setText(beat, `${silent}, started ${ago(item.started_at)}`);
    setFigure(beat, beat.textContent, fullMoment(item.started_at));
    const drain = card.querySelector("[data-act=drain]");
    const resume = card.querySelector("[data-act=resume]");
    if (drain) drain.hidden = item.state !== "live";
    if (resume) resume.hidden = item.state !== "draining" && item.state !== "paused";
    keyed(card.querySelector(".runs"), item.runs, {
      key: ({ id }) => id,
      create: runRow,
      update: fillRun,
    });
  }

  async #ask(id, act) {
    const item = this.items.find((one) => one.id === id);
    const held = item.runs.reduce((sum, run) => sum + run.in_flight, 0);
    const name = nameOf(item);
    const drain = act === "drain";
    const done = await confirm(drain ? `Drain ${name}?` : `Resume ${name}?`, {
      text: drain
        ? `It finishes the ${many(held, "request")} that it holds and claims nothing more, until it is resumed. Others of its backend go on.`
        : "It claims requests again, at once.",
      action: drain ? "Drain it" : "Resume it",
      act: () => post(`workers/${encodeURIComponent(id)}/${act}`),
    });
    if (!done) return;
    announce(drain ? `${name} is draining.` : `${name} is resumed.`);
    await this.fetch();
    // The button that was pressed is hidden now: its neighbour takes the focus.
    this.element
      .querySelector(`[data-id="${CSS.escape(id)}"] .actions button:not([hidden])`)
      ?.focus();
  }
}

function nameOf({ kind, backend, host, pid }) {
  return `${backend ?? kind} on ${host} (${pid})`;
}

function runRow(run) {
  const meter = new Meter("In flight of what fits");
  const row = h(
    "li",
    { class: "run" },
    h(
      "div",
      { class: "run-name" },
      h("span", { class: "mono", title: run.id, text: shortId(run.id) }),
      h("span", { class: "hint run-state" }),
    ),
    meter.element,
    h("p", { class: "hint run-figures" }),
  );
  row.carpoolMeter = meter;
  return row;
}

function fillRun(row, { in_flight: now, capacity, accepting, started_at: at, figures }) {
  row.carpoolMeter.show(
    capacity ? now / capacity : null,
    `${count(now)} of ${capacity ? count(capacity) : NONE} in flight`,
  );
  setText(
    row.querySelector(".run-state"),
    `${accepting ? "claims" : "claims nothing more"}, started ${ago(at)}`,
  );
  const words = [];
  if (figures) {
    const { running, waiting } = figures;
    if ((running ?? null) !== null) words.push(`engine runs ${count(running)}`);
    if ((waiting ?? null) !== null) words.push(`${count(waiting)} wait in it`);
    if ((figures.kv_cache_usage ?? null) !== null)
      words.push(`KV cache ${percent(figures.kv_cache_usage)}`);
    const { prefix_cache_queries: asked, prefix_cache_hits: hits } = figures;
    if (asked) words.push(`prefix hits ${percent(hits / asked)}`);
  }
  setText(row.querySelector(".run-figures"), words.join(" · "));
}
