/** Charts over time, drawn by plotly.js, which is fetched when the first one is shown. */

import { onAppearance } from "./appearance.js";
import { h, keyed, replace, setText } from "./dom.js";
import { NONE } from "./format.js";
import { failure, loading } from "./notices.js";

const HUES = 10;
const HEIGHT_PIXELS = 240;
const LONGEST_NAME = 40;
const OTHERS = "others";
/** Of the time that is asked for: no chart shows less. */
const SHORTEST_SHARE = 1 / 6;
let fetched = null;

/** The library, once it is there. A failed fetch may be tried again. */
function plotly() {
  fetched ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.querySelector("meta[name=carpool-plotly]").content;
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => {
      fetched = null;
      reject(new Error("The library that draws charts could not be loaded."));
    });
    document.head.append(script);
  });
  return fetched;
}

/** A chart with its legend; `format` says a value in words. */
export class Chart {
  constructor({ id, label }) {
    this.plot = h("div", { class: "plot", role: "img", "aria-label": label, id });
    this.legend = h("ul", { class: "legend", "aria-label": `${label}: series` });
    this.notice = h("div", { class: "plot-notice" }, loading("Loading the chart…"));
    this.element = h(
      "figure",
      { class: "chart" },
      h("div", { class: "plot-box" }, this.plot, this.notice),
      this.legend,
    );
    this.label = label;
    this.hidden = new Set();
    this.shown = null;
    this.unlisten = onAppearance(() => this.#draw());
  }

  /** `{at: [unix…], series: [{name, values}], stacked, format, none}`; `none`: if all is empty. */
  async show(data) {
    this.shown = data;
    await this.#draw();
  }

  /** Say what went wrong in the chart's place. */
  fail(error, again) {
    if (this.shown === null) replace(this.notice, failure(error, again));
  }

  close() {
    this.unlisten();
    this.shown = null;
    window.Plotly?.purge(this.plot);
  }

  async #draw() {
    if (this.shown === null) return;
    let library;
    try {
      library = await plotly();
    } catch (error) {
      replace(
        this.notice,
        failure(error, () => this.#draw()),
      );
      return;
    }
    // It was closed, or newer figures came, while the library was on its way.
    if (this.shown === null) return;
    const { at, series, stacked, format, none } = this.shown;
    const busy = series.some(({ values }) => values.some((value) => value));
    this.notice.hidden = busy;
    if (!busy) replace(this.notice, h("p", { class: "placeholder-text", text: none }));
    const colours = palette();
    const x = at.map(local);
    const traces = series.map(({ name, values }, place) => ({
      type: "scatter",
      mode: "lines",
      name: shown(name),
      x,
      y: values,
      visible: this.hidden.has(name) ? "legendonly" : true,
      line: { color: hue(colours, name, place), width: 1.6 },
      ...(stacked && { stackgroup: "all", fillcolor: faint(hue(colours, name, place), colours) }),
      hovertemplate: "%{text}",
      text: values.map((value) => (value === null ? NONE : format(value))),
    }));
    await library.react(this.plot, traces, layout(colours, x, { at, series, busy }), {
      displayModeBar: false,
      responsive: true,
    });
    this.#name(busy);
  }

  #name(busy) {
    const { series, format, none } = this.shown;
    const colours = palette();
    const newest = ({ values }) => values.findLast((value) => value !== null) ?? null;
    const items = series.map((one, place) => ({ ...one, place, now: newest(one) }));
    keyed(this.legend, busy ? items : [], {
      key: ({ name }) => name,
      create: ({ name }) =>
        h(
          "li",
          {},
          h(
            "button",
            { type: "button", class: "legend-item", on: { click: () => this.#toggle(name) } },
            h("span", { class: "swatch" }),
            h("span", { class: "legend-name" }),
            h("span", { class: "legend-now" }),
          ),
        ),
      update: (element, { name, place, now }) => {
        const button = element.firstElementChild;
        const [swatch, label, value] = button.children;
        swatch.style.backgroundColor = hue(colours, name, place);
        setText(label, name || NONE);
        setText(value, now === null ? "" : format(now));
        button.setAttribute("aria-pressed", String(!this.hidden.has(name)));
      },
    });
    const said = items
      .map(({ name, now }) => `${name} ${now === null ? NONE : format(now)}`)
      .join(", ");
    this.plot.setAttribute("aria-label", `${this.label}: ${busy ? `now ${said}` : none}`);
  }

  #toggle(name) {
    if (!this.hidden.delete(name)) this.hidden.add(name);
    this.#draw();
  }
}

function layout(colours, x, { at, series, busy }) {
  const highest = Math.max(0, ...series.flatMap(({ values }) => values));
  const axis = { zeroline: false, fixedrange: true };
  return {
    height: HEIGHT_PIXELS,
    margin: { l: 44, r: 8, t: 8, b: 28 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colours.muted },
    showlegend: false,
    hovermode: "x unified",
    hoverlabel: {
      bgcolor: colours.surface,
      bordercolor: colours.line,
      font: { color: colours.text, size: 12 },
    },
    xaxis: {
      ...axis,
      type: "date",
      showgrid: false,
      linecolor: colours.line,
      nticks: 6,
      range: x.length > 1 ? [x[beginning(at, series)], x.at(-1)] : undefined,
      tickformat: "%H:%M",
      hoverformat: "%-d %b, %H:%M:%S",
    },
    yaxis: {
      ...axis,
      visible: busy,
      rangemode: "tozero",
      gridcolor: colours.line,
      nticks: 5,
      tickformat: highest < 1 ? "~g" : "~s",
    },
    uirevision: "kept",
  };
}

/** Where the chart begins: with the first figure, where that leaves enough of it to see. */
function beginning(at, series) {
  const first = at.findIndex((_, place) => series.some(({ values }) => values[place]));
  const least = Math.floor(at.length * (1 - SHORTEST_SHARE));
  return first < 0 ? 0 : Math.max(0, Math.min(first - 1, least));
}

/** Plotly takes some markup in a name; a team's name is text. */
function shown(name) {
  const cut = name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;
  return cut.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;") || NONE;
}

/** Plotly takes a date as it is written, without a zone: the browser's is put in here. */
function local(at) {
  const date = new Date(at * 1000);
  const shifted = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19).replace("T", " ");
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    text: read("--text"),
    muted: read("--muted"),
    line: read("--line"),
    surface: read("--surface"),
    faint: Number(read("--fill")),
    others: read("--hue-others"),
    hues: Array.from({ length: HUES }, (_, place) => read(`--hue-${place + 1}`)),
  };
}

function hue(colours, name, place) {
  return name === OTHERS ? colours.others : colours.hues[place % HUES];
}

function faint(colour, colours) {
  const [red, green, blue] = [1, 3, 5].map((start) =>
    Number.parseInt(colour.slice(start, start + 2), 16),
  );
  return `rgba(${red},${green},${blue},${colours.faint})`;
}
