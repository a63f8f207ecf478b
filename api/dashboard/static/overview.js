/** The overview: what waits, why, since when, whose it is, how fast it drains, what is broken. */

import { BackendsTable } from "./backends_table.js";
import { h, setFigure } from "./dom.js";
import { Figure } from "./figure.js";
import { count, exact, fullMoment, moment, NONE, percent, rate, short, span } from "./format.js";
import { HistoryPanel } from "./history_panel.js";
import { onOverview } from "./live.js";
import { heading, loading, section } from "./notices.js";
import { Problems } from "./problems.js";
import { QueuesTable } from "./queues_table.js";
import { Today } from "./today.js";

const OF_THE_RATES = [
  "requests_per_second",
  "input_tokens_per_second",
  "output_tokens_per_second",
  "failed_per_second",
];

export const page = { name: "overview", title: "Overview", mount };

function mount(root) {
  const problems = new Problems();
  const waiting = new Hero();
  const figures = new Figures();
  const queues = new QueuesTable();
  const backends = new BackendsTable();
  const today = new Today();
  const histories = [depths(), activity()];
  const counted = h("span", { class: "muted", id: "counted-at" });
  const first = loading("Counting…");
  const rest = h(
    "div",
    { class: "stack", hidden: true },
    problems.element,
    h("div", { class: "card hero" }, waiting.element, figures.element),
    histories[0].element,
    section("What waits", "queues", queues.element),
    histories[1].element,
    section("What answers", "backends", backends.element, backends.processes),
    section("Today", "today", today.element),
  );
  root.append(heading("Overview", counted), first, rest);

  const stop = onOverview((found) => {
    first.hidden = true;
    rest.hidden = false;
    const at = found.counted_at ?? found.at;
    setFigure(counted, `Counted at ${moment(at)}`, fullMoment(at));
    problems.show(found.problems);
    waiting.show(found);
    figures.show(found);
    queues.show(found.queues);
    backends.show(found);
    today.show(found.today);
  });
  return {
    refresh: () => histories.forEach((one) => one.fetch()),
    close: () => {
      stop();
      histories.forEach((one) => one.close());
    },
  };
}

/** The most important figure: how much waits, and for how long. */
class Hero {
  constructor() {
    this.waiting = h("dd", { class: "hero-value", id: "figure-waiting" });
    this.oldest = h("dd", { class: "hero-second", id: "figure-oldest" });
    this.drain = h("dd", { class: "hero-second", id: "figure-drain" });
    this.element = h(
      "dl",
      { class: "hero-figures" },
      h("div", { class: "hero-first" }, h("dt", { text: "Waiting" }), this.waiting),
      h("div", {}, h("dt", { text: "The oldest for" }), this.oldest),
      h("div", {}, h("dt", { text: "Done in about" }), this.drain),
    );
  }

  show({ waiting, in_flight: inFlight, oldest_seconds: oldest, drain_seconds: drain }) {
    setFigure(this.waiting, waiting < 1e6 ? count(waiting) : short(waiting), count(waiting));
    setFigure(this.oldest, span(oldest), exact(oldest, "s"));
    const left = waiting + inFlight > 0;
    setFigure(
      this.drain,
      left ? (drain === null ? "Not at this pace" : span(drain)) : NONE,
      exact(drain, "s"),
    );
    this.drain.classList.toggle("words", left && drain === null);
  }
}

class Figures {
  constructor() {
    this.inFlight = new Figure("In flight", { id: "figure-in-flight" });
    this.requests = new Figure("Requests", { id: "figure-requests" });
    this.input = new Figure("Tokens in", { id: "figure-input-tokens" });
    this.output = new Figure("Tokens out", { id: "figure-output-tokens" });
    this.errors = new Figure("Errors", { id: "figure-errors" });
    this.batches = new Figure("Batches open", { id: "figure-batches" });
    this.element = h(
      "dl",
      { class: "figures" },
      [this.inFlight, this.requests, this.input, this.output, this.errors, this.batches].map(
        ({ element }) => element,
      ),
    );
  }

  show({ in_flight: inFlight, rates, batches }) {
    const over = `over ${span(rates.span_seconds)}`;
    this.inFlight.show(
      inFlight < 1e6 ? count(inFlight) : short(inFlight),
      count(inFlight),
      "being computed now",
    );
    this.requests.show(
      rate(rates.requests_per_second),
      exact(rates.requests_per_second, "a second"),
      over,
    );
    this.input.show(
      rate(rates.input_tokens_per_second),
      exact(rates.input_tokens_per_second, "a second"),
      over,
    );
    this.output.show(
      rate(rates.output_tokens_per_second),
      exact(rates.output_tokens_per_second, "a second"),
      over,
    );
    this.errors.show(
      percent(rates.error_rate),
      exact(rates.error_rate === null ? null : rates.error_rate * 100, "%"),
      "of what ended",
    );
    this.batches.show(count(batches.open), "", `${short(batches.lines_left)} lines left`);
    this.errors.element.classList.toggle("bad", (rates.error_rate ?? 0) > 0.1);
  }
}

function depths() {
  const of = (name) => (found) =>
    found.series.map((one) => ({ name: one.name, values: one[name] }));
  const none = "Nothing has waited in this time.";
  return new HistoryPanel({
    id: "depths",
    title: "Queue",
    path: "depths",
    bys: [
      ["model", "Model"],
      ["class", "Class"],
      ["team", "Team"],
    ],
    measures: [
      {
        name: "waiting",
        title: "Waiting",
        series: of("waiting"),
        stacked: true,
        format: count,
        none,
      },
      {
        name: "in_flight",
        title: "In flight",
        series: of("in_flight"),
        stacked: true,
        format: count,
        none: "Nothing was computed in this time.",
      },
      {
        name: "oldest",
        title: "Oldest",
        series: (found) => [{ name: "Oldest wait", values: found.oldest_seconds }],
        stacked: false,
        format: span,
        none,
      },
    ],
  });
}

function activity() {
  const titles = ["Requests", "Tokens in", "Tokens out", "Failed"];
  return new HistoryPanel({
    id: "activity",
    title: "Throughput",
    path: "activity",
    bys: [
      ["model", "Model"],
      ["team", "Team"],
      ["backend", "Backend"],
    ],
    measures: OF_THE_RATES.map((name, place) => ({
      name,
      title: titles[place],
      series: (found) => found.series.map((one) => ({ name: one.name, values: one[name] })),
      stacked: true,
      format: rate,
      none:
        name === "failed_per_second"
          ? "Nothing has failed in this time."
          : "Nothing was answered in this time.",
    })),
  });
}
