/** The form of a route, and the question before it is put in force. */

import { get, put, segment } from "./api.js";
import { open } from "./dialog.js";
import { h, replace, setText } from "./dom.js";
import { legForm, plain, readLeg, spanOf } from "./leg_form.js";
import { routeList, routeWords } from "./legs.js";

/**
 * Let someone change a route (`route` null: make one). Gives the model's name where it was done.
 */
export function editRoute({ route, model, routes, backends }) {
  const title = route === null ? "Add a model" : `Switch ${route.model}`;
  return open(
    title,
    (close, retitle) =>
      new Editor({ route, model, routes, backends, close, retitle, title }).element,
    { id: "route-dialog", wide: true },
  );
}

class Editor {
  constructor({ route, model, routes, backends, close, retitle, title }) {
    Object.assign(this, { route, routes, backends, close, retitle, title });
    this.element = h("div", {});
    this.error = h("p", { class: "form-error", role: "alert", id: "route-error" });
    this.name = h("input", {
      id: "route-model",
      value: route?.model ?? model ?? "",
      required: true,
      maxlength: "256",
      spellcheck: "false",
      autocomplete: "off",
    });
    this.cache = h("input", {
      id: "route-cache",
      value: route?.cache_seconds ? plain(route.cache_seconds) : "",
      placeholder: "not kept",
      autocomplete: "off",
    });
    this.legs = h("ol", { class: "leg-forms" });
    for (const leg of route?.legs?.length ? route.legs : [{ backend: backends[0]?.backend ?? "" }])
      this.#add(leg);
    this.alias = h(
      "select",
      { id: "route-alias" },
      [...routes.keys()]
        .filter((one) => one !== route?.model)
        .map((one) => h("option", { value: one, text: one, selected: one === route?.alias })),
    );
    this.kinds = h(
      "fieldset",
      { class: "kinds" },
      h("legend", { text: "What answers it" }),
      this.#kind("legs", "Backends, in their order", !route?.alias),
      this.#kind(
        "alias",
        "Whatever answers another model",
        Boolean(route?.alias),
        this.alias.options.length === 0,
      ),
    );
    this.legsBox = h(
      "div",
      { class: "legs-box" },
      h("p", {
        class: "hint",
        text: "The first leg that fits a request, and whose backend is up, gets it. Legs with a time open beside the others.",
      }),
      this.legs,
      h("button", {
        type: "button",
        class: "button small",
        id: "add-leg",
        text: "Add a leg",
        on: {
          click: () =>
            this.#add({ backend: this.backends[0]?.backend ?? "" })
              .querySelector("select")
              .focus(),
        },
      }),
    );
    this.aliasBox = h(
      "div",
      { class: "field" },
      h("label", { for: "route-alias", text: "Model whose route it shares" }),
      this.alias,
    );
    this.form = h(
      "form",
      { class: "dialog-body", id: "route-form", on: { submit: (event) => this.#review(event) } },
      route === null
        ? h(
            "div",
            { class: "field" },
            h("label", { for: "route-model", text: "Model, as clients name it" }),
            this.name,
          )
        : null,
      this.kinds,
      this.legsBox,
      this.aliasBox,
      h(
        "div",
        { class: "field" },
        h("label", { for: "route-cache", text: "Keep answers for identical requests" }),
        this.cache,
        h("p", { class: "hint", text: "As 10m or 1h; empty keeps none." }),
      ),
      this.error,
      h(
        "div",
        { class: "dialog-foot" },
        h("button", {
          type: "button",
          class: "button",
          text: "Cancel",
          on: { click: () => close() },
        }),
        h("button", {
          type: "submit",
          class: "button primary",
          id: "route-review",
          text: "Review the change",
        }),
      ),
    );
    this.#choose(route?.alias ? "alias" : "legs");
    this.element.append(this.form);
  }

  #kind(value, text, checked, disabled = false) {
    return h(
      "label",
      { class: "check" },
      h("input", {
        type: "radio",
        name: "route-kind",
        value,
        checked,
        disabled,
        on: { change: () => this.#choose(value) },
      }),
      h("span", { text }),
    );
  }

  #choose(kind) {
    this.kind = kind;
    this.legsBox.hidden = kind !== "legs";
    this.aliasBox.hidden = kind !== "alias";
  }

  #add(leg) {
    const form = legForm(leg, this.backends);
    const move = (by) => {
      const all = [...this.legs.children];
      const place = all.indexOf(form) + by;
      if (place < 0 || place >= all.length) return;
      if (by < 0) form.after(all[place]);
      else form.before(all[place]);
      this.#number();
    };
    form.querySelector(".leg-up").addEventListener("click", () => move(-1));
    form.querySelector(".leg-down").addEventListener("click", () => move(1));
    form.querySelector(".leg-remove").addEventListener("click", () => {
      const next = form.nextElementSibling ?? form.previousElementSibling;
      form.remove();
      this.#number();
      next?.querySelector("select").focus();
    });
    this.legs.append(form);
    this.#number();
    return form;
  }

  #number() {
    const all = [...this.legs.children];
    all.forEach((form, place) => {
      setText(form.querySelector("legend"), `Leg ${place + 1}`);
      form.querySelector(".leg-up").disabled = place === 0;
      form.querySelector(".leg-down").disabled = place === all.length - 1;
      form.querySelector(".leg-remove").disabled = all.length === 1;
    });
  }

  #read() {
    const route =
      this.kind === "alias"
        ? { alias: this.alias.value }
        : { legs: [...this.legs.children].map((form, place) => readLeg(form, `Leg ${place + 1}`)) };
    if (this.cache.value.trim())
      route.cache_seconds = spanOf(this.cache, "How long answers are kept");
    return route;
  }

  async #review(event) {
    event.preventDefault();
    setText(this.error, "");
    const model = this.route?.model ?? this.name.value.trim();
    try {
      const wanted = this.#read();
      // Another one may have switched it while this form was open.
      const before = await get(`routes/${segment(model)}`).catch((error) => {
        if (error.status === 404) return null;
        throw error;
      });
      this.#confirm(model, before, wanted);
    } catch (error) {
      setText(this.error, error.message);
      error.field?.focus();
    }
  }

  #confirm(model, before, wanted) {
    const old = routeWords(before, model);
    const moved = this.route !== null && old !== routeWords(this.route, model);
    const error = h("p", { class: "form-error", role: "alert" });
    const button = h("button", {
      type: "submit",
      class: "button primary",
      id: "route-confirm",
      text: before === null ? "Add it" : "Switch now",
    });
    const form = h(
      "form",
      {
        class: "dialog-body",
        id: "route-confirmation",
        on: {
          submit: async (event) => {
            event.preventDefault();
            button.disabled = true;
            try {
              await put(`routes/${segment(model)}`, { body: wanted });
              this.close(model);
            } catch (failure) {
              setText(error, failure.message);
              button.disabled = false;
            }
          },
        },
      },
      moved
        ? h("p", {
            class: "notice",
            text: "It was changed by someone else while this form was open.",
          })
        : null,
      h(
        "dl",
        { class: "change" },
        h("dt", { text: "From" }),
        routeList(before, model, "route-from"),
        h("dt", { text: "To" }),
        routeList(wanted, model, "route-to"),
      ),
      h("p", {
        class: "hint",
        text: "The very next request follows, and so do those that wait. What is being computed goes on where it is.",
      }),
      error,
      h(
        "div",
        { class: "dialog-foot" },
        h("button", {
          type: "button",
          class: "button",
          text: "Back",
          on: {
            click: () => {
              this.retitle(this.title);
              replace(this.element, this.form);
              this.form.querySelector("#route-review").focus();
            },
          },
        }),
        button,
      ),
    );
    this.retitle(before === null ? `Add ${model}?` : `Switch ${model}?`);
    replace(this.element, form);
    button.focus();
  }
}
