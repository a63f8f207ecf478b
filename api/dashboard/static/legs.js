/** Routes in words: what each leg is for, and which of them answer now. */

import { h, keyed } from "./dom.js";
import { listed, money, setSpan } from "./format.js";
import { badge } from "./status.js";

/** "gpu as qwen3" */
export function legTarget({ backend, upstream }, model) {
  return upstream && upstream !== model ? `${backend} as ${upstream}` : backend;
}

/** The conditions of a leg, each a few words; none is "everything". */
export function legConditions(leg) {
  const found = [];
  if (leg.classes) found.push(`${listed(leg.classes)} requests`);
  if (leg.teams)
    found.push(leg.teams.length === 1 ? `team ${leg.teams[0]}` : `teams ${listed(leg.teams)}`);
  if (leg.share !== undefined && leg.share !== null) found.push(`${leg.share} % of the traffic`);
  if (leg.after_seconds !== undefined && leg.after_seconds !== null)
    found.push(`what has waited for ${setSpan(leg.after_seconds)}`);
  if (leg.left_seconds !== undefined && leg.left_seconds !== null)
    found.push(`batches with ${setSpan(leg.left_seconds)} left or less`);
  if (leg.max_price !== undefined && leg.max_price !== null)
    found.push(`while a million output tokens cost ${money(leg.max_price)} at most`);
  return found;
}

/** A whole route, a line for each leg and for what else it says. */
export function routeLines(route, model) {
  if (route === null || route === undefined) return ["no route"];
  const lines = (route.legs ?? []).map((leg) => {
    const conditions = legConditions(leg);
    return legTarget(leg, model) + (conditions.length ? ` (${conditions.join(", ")})` : "");
  });
  if (route.alias) lines.push(`as ${route.alias}`);
  if (route.cache_seconds) lines.push(`answers kept for ${setSpan(route.cache_seconds)}`);
  return lines;
}

/** The same in one sentence, as it stands in the history. */
export function routeWords(route, model) {
  return routeLines(route, model)
    .join(", then ")
    .replace(/, then (answers kept for [^,]*)$/, ", $1");
}

/** The same as a list, for the question before a switch. */
export function routeList(route, model, id) {
  return h(
    "dd",
    { id },
    h(
      "ol",
      {},
      routeLines(route, model).map((line) => h("li", { text: line })),
    ),
  );
}

/** The legs of a model, followed through aliases; `via` are the names on the way. */
export function resolved(model, routes) {
  const via = [];
  let name = model;
  while (routes.get(name)?.alias && via.length < routes.size) {
    name = routes.get(name).alias;
    via.push(name);
  }
  const legs = (routes.get(name)?.legs ?? []).map((leg) => ({
    ...leg,
    upstream: leg.upstream ?? name,
  }));
  return { legs, via };
}

/**
 * What each leg does at this moment, by the states of the backends: "answers", "opens" (beside the
 * others, with time), "stands by" (a leg before it takes all), or the backend's state.
 */
export function doings(legs, states) {
  let taken = false;
  let someUp = false;
  return legs.map((leg) => {
    const state = states.get(leg.backend) ?? "absent";
    if (state !== "up") return state;
    const timed = leg.after_seconds !== undefined || leg.left_seconds !== undefined;
    if (timed && someUp) return "opens";
    if (taken) return "stands by";
    someUp = true;
    taken = !timed && legConditions(leg).length === 0;
    return "answers";
  });
}

const SAID = {
  answers: "answers now",
  opens: "opens with time",
  "stands by": "stands by",
  up: "up",
  down: "down",
  paused: "paused",
  absent: "no worker",
};
const STATES = { answers: "up", opens: "plain", "stands by": "plain" };

/** The legs as a list, each with what it does now; a list that `show` keeps up to date. */
export class LegList {
  constructor(label) {
    this.element = h("ol", { class: "legs", "aria-label": label });
  }

  show(model, legs, states) {
    const now = doings(legs, states);
    const items = legs.map((leg, place) => ({
      leg,
      doing: now[place],
      key: `${place}\n${JSON.stringify(leg)}\n${now[place]}`,
    }));
    keyed(this.element, items, {
      key: ({ key }) => key,
      create: ({ leg, doing }) => {
        const conditions = legConditions(leg);
        return h(
          "li",
          { class: "leg" },
          h(
            "div",
            { class: "leg-words" },
            h("span", { class: "name", text: legTarget(leg, model) }),
            h("span", {
              class: "muted",
              text: conditions.length ? `for ${conditions.join(", ")}` : "for everything",
            }),
          ),
          badge(STATES[doing] ?? doing, SAID[doing]),
        );
      },
    });
  }
}
