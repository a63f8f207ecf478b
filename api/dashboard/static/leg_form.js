/** The part of a route's form that is about one leg: its fields, and what they say. */

import { freshId, h, icon } from "./dom.js";
import { parseSpan, setSpan } from "./format.js";

const CLASSES = ["interactive", "flex", "batch"];
const CONDITIONS = ["classes", "teams", "share", "after_seconds", "left_seconds", "max_price"];

/** The fields of a leg, filled in. */
export function legForm(leg, backends) {
  const id = freshId("leg");
  const names = [...new Set([...backends.map(({ backend }) => backend), leg.backend])].filter(
    Boolean,
  );
  const field = (name, label, control, hint = null) =>
    h(
      "div",
      { class: "field" },
      h("label", { for: `${id}-${name}`, text: label }),
      Object.assign(control, { id: `${id}-${name}` }),
      hint === null ? null : h("p", { class: "hint", text: hint }),
    );
  const input = (name, value, placeholder) =>
    h("input", { name, value: value ?? "", placeholder, autocomplete: "off", spellcheck: "false" });
  const state = new Map(backends.map((one) => [one.backend, one.state]));
  const conditions = CONDITIONS.some((name) => leg[name] !== undefined && leg[name] !== null);
  return h(
    "li",
    {},
    h(
      "fieldset",
      { class: "leg-form" },
      h("legend", {}),
      h(
        "div",
        { class: "leg-buttons" },
        h(
          "button",
          { type: "button", class: "button bare leg-up", "aria-label": "Move this leg up" },
          icon("up"),
        ),
        h(
          "button",
          { type: "button", class: "button bare leg-down", "aria-label": "Move this leg down" },
          icon("down"),
        ),
        h(
          "button",
          { type: "button", class: "button bare leg-remove", "aria-label": "Remove this leg" },
          icon("close"),
        ),
      ),
      h(
        "div",
        { class: "pair" },
        field(
          "backend",
          "Backend",
          h(
            "select",
            { name: "backend" },
            names.map((name) =>
              h("option", {
                value: name,
                selected: name === leg.backend,
                text:
                  state.get(name) === "up" || !state.has(name)
                    ? name
                    : `${name} (${state.get(name) === "absent" ? "no worker" : state.get(name)})`,
              }),
            ),
          ),
        ),
        field("upstream", "Model there", input("upstream", leg.upstream, "the same name")),
      ),
      h(
        "details",
        { open: conditions },
        h("summary", { text: "Conditions" }),
        h(
          "div",
          { class: "conditions" },
          h(
            "fieldset",
            { class: "classes" },
            h("legend", { text: "Classes" }),
            CLASSES.map((name) =>
              h(
                "label",
                { class: "check" },
                h("input", {
                  type: "checkbox",
                  name: "class",
                  value: name,
                  checked: !leg.classes || leg.classes.includes(name),
                }),
                h("span", { text: name }),
              ),
            ),
          ),
          field(
            "teams",
            "Teams",
            h(
              "textarea",
              { name: "teams", rows: "2", spellcheck: "false", placeholder: "all" },
              (leg.teams ?? []).join("\n"),
            ),
            "One on a line.",
          ),
          h(
            "div",
            { class: "pair" },
            field("share", "Share of the traffic, %", input("share", leg.share, "all")),
            field(
              "max",
              "Highest price, $ for 1M output tokens",
              input("max_price", leg.max_price, "any"),
            ),
          ),
          h(
            "div",
            { class: "pair" },
            field(
              "after",
              "Only after waiting for",
              input(
                "after",
                leg.after_seconds === undefined ? "" : plain(leg.after_seconds),
                "as 20s",
              ),
            ),
            field(
              "left",
              "Only with time left below",
              input("left", leg.left_seconds === undefined ? "" : plain(leg.left_seconds), "as 1h"),
            ),
          ),
        ),
      ),
    ),
  );
}

/** The leg that the fields say; throws with the `field` that says nothing sensible. */
export function readLeg(form, where) {
  const value = (name) => form.querySelector(`[name=${name}]`);
  const leg = { backend: value("backend").value };
  const upstream = value("upstream").value.trim();
  if (upstream) leg.upstream = upstream;
  const classes = [...form.querySelectorAll("[name=class]:checked")].map((box) => box.value);
  if (!classes.length)
    throw wrong(form.querySelector("[name=class]"), `${where}: choose a class at least.`);
  if (classes.length < CLASSES.length) leg.classes = classes;
  const teams = value("teams")
    .value.split("\n")
    .map((team) => team.trim())
    .filter(Boolean);
  if (teams.length) leg.teams = teams;
  for (const [name, what] of [
    ["share", "share"],
    ["max_price", "price"],
  ]) {
    const text = value(name).value.trim();
    if (!text) continue;
    const number = Number(text.replace(/[%$\s]/g, ""));
    if (Number.isNaN(number)) throw wrong(value(name), `${where}: the ${what} is not a number.`);
    leg[name] = number;
  }
  if (value("after").value.trim()) leg.after_seconds = spanOf(value("after"), `${where}: the wait`);
  if (value("left").value.trim())
    leg.left_seconds = spanOf(value("left"), `${where}: the time left`);
  return leg;
}

/** The seconds of a field with a span of time. */
export function spanOf(field, what) {
  const seconds = parseSpan(field.value);
  if (Number.isNaN(seconds))
    throw wrong(field, `${what} is no span of time; write it as 20s, 10m or 1h.`);
  return seconds;
}

/** Seconds as one would type them: "10m". */
export function plain(seconds) {
  return setSpan(seconds).replace(/\s/g, "").replace("min", "m");
}

function wrong(field, message) {
  field.closest("details")?.setAttribute("open", "");
  return Object.assign(new Error(message), { field });
}
