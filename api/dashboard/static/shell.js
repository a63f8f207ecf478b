/** What is around each page: where one is, where one can go, and whether the figures are live. */

import { APPEARANCES, appearance, choose } from "./appearance.js";
import { page as batches } from "./batches.js";
import { failure } from "./notices.js";
import { announce, h, icon, replace, setText } from "./dom.js";
import { moment, span } from "./format.js";
import * as live from "./live.js";
import { page as overview } from "./overview.js";
import { page as playground } from "./playground.js";
import { page as requests } from "./requests.js";
import { link } from "./router.js";
import { page as routes } from "./routes.js";
import { signOut } from "./session.js";
import { page as workers } from "./workers.js";

const PAGES = [overview, routes, batches, requests, workers, playground];
const APPEARANCE_NAMES = { system: "As the system", light: "Light", dark: "Dark" };
/** A restarted server is back sooner than this; nobody needs to be told. */
const PATIENCE_MILLISECONDS = 1500;

export class Shell {
  constructor(session) {
    /** Whether the one who is signed in asked to leave. */
    this.leaving = false;
    this.place = null;
    this.view = null;
    this.links = new Map();
    this.content = h("main", { id: "content", class: "content", tabindex: "-1" });
    this.state = h("p", { class: "state", id: "connection-state" });
    this.banner = h("div", { class: "banner", id: "connection-lost", role: "alert", hidden: true });
    this.element = h(
      "div",
      { class: "shell" },
      this.#head(session),
      h("div", { class: "body" }, this.banner, this.content),
    );
    this.unlisten = live.onConnection(() => this.#showConnection());
    this.clock = setInterval(() => this.#showConnection(), 1000);
    this.#showConnection();
  }

  /** Show the page of a place; `again`: after a new session, where it may be there already. */
  show(place, { again = false } = {}) {
    const same = this.place?.page === place.page && this.place?.id === place.id;
    if (again && same && this.view !== null) {
      this.view.refresh?.();
      return;
    }
    if (same && this.view?.move?.(place.query)) {
      this.place = place;
      return;
    }
    const first = this.place === null;
    this.place = place;
    this.#mount(place, first);
  }

  close() {
    this.view?.close?.();
    this.unlisten();
    clearInterval(this.clock);
  }

  #mount(place, first) {
    this.view?.close?.();
    this.view = null;
    const found = PAGES.find((page) => page.name === place.page);
    for (const [name, anchor] of this.links) {
      if (name === place.page) anchor.setAttribute("aria-current", "page");
      else anchor.removeAttribute("aria-current");
    }
    this.#closeMenu();
    replace(this.content);
    if (found === undefined) {
      document.title = "Not found · Carpool";
      this.content.append(
        h("h1", { tabindex: "-1", text: "There is no such page" }),
        h("p", {}, h("a", { href: link("overview"), text: "To the overview" })),
      );
    } else {
      document.title = `${place.id ?? found.title} · Carpool`;
      try {
        this.view = found.mount(this.content, place) ?? null;
      } catch (error) {
        console.error(error);
        this.content.append(failure(error, () => this.#mount(place, first)));
      }
    }
    if (first) return;
    scrollTo(0, 0);
    this.content.querySelector("h1")?.focus({ preventScroll: true });
  }

  #head(session) {
    const nav = h(
      "ul",
      { class: "nav-list" },
      PAGES.map((page) => {
        const anchor = h(
          "a",
          { href: link(page.name), id: `nav-${page.name}`, on: { click: () => this.#closeMenu() } },
          icon(page.name),
          h("span", { text: page.title }),
        );
        this.links.set(page.name, anchor);
        return h("li", {}, anchor);
      }),
    );
    this.menu = h(
      "div",
      { class: "menu", id: "menu" },
      h("nav", { "aria-label": "Pages" }, nav),
      h("div", { class: "menu-foot" }, this.#appearance(), this.#account(session)),
    );
    this.menuButton = h(
      "button",
      {
        type: "button",
        id: "menu-button",
        class: "button bare menu-button",
        "aria-expanded": "false",
        "aria-controls": "menu",
        "aria-label": "Menu",
        on: { click: () => this.#toggleMenu() },
      },
      icon("menu"),
    );
    const head = h(
      "header",
      {
        class: "head",
        on: {
          keydown: (event) => {
            if (
              event.key === "Escape" &&
              this.menuButton.getAttribute("aria-expanded") === "true"
            ) {
              this.#closeMenu();
              this.menuButton.focus();
            }
          },
        },
      },
      h(
        "div",
        { class: "head-bar" },
        h(
          "a",
          { class: "brand", href: link("overview"), "aria-label": "Carpool, to the overview" },
          icon("logo"),
          h("span", { text: "Carpool" }),
        ),
        this.state,
        this.menuButton,
      ),
      this.menu,
    );
    return head;
  }

  #appearance() {
    const select = h(
      "select",
      { id: "appearance", on: { change: () => choose(select.value) } },
      APPEARANCES.map((name) =>
        h("option", { value: name, text: APPEARANCE_NAMES[name], selected: name === appearance() }),
      ),
    );
    return h(
      "div",
      { class: "appearance" },
      h("label", { for: "appearance", text: "Colours" }),
      select,
    );
  }

  #account(session) {
    const who = session.owner ?? session.name ?? session.team;
    const button = h("button", {
      type: "button",
      id: "sign-out",
      class: "button small",
      text: "Sign out",
      on: {
        click: async () => {
          this.leaving = true;
          try {
            await signOut();
          } catch (error) {
            this.leaving = false;
            announce(error.message);
          }
        },
      },
    });
    return h(
      "div",
      { class: "account" },
      h(
        "div",
        { class: "account-who" },
        h("span", { class: "account-name", text: who }),
        h("span", { class: "muted", text: `Key “${session.name}” of ${session.team}` }),
      ),
      button,
    );
  }

  #toggleMenu() {
    const open = this.menuButton.getAttribute("aria-expanded") === "true";
    this.menuButton.setAttribute("aria-expanded", String(!open));
    this.menu.classList.toggle("open", !open);
  }

  #closeMenu() {
    this.menuButton?.setAttribute("aria-expanded", "false");
    this.menu?.classList.remove("open");
  }

  #showConnection() {
    const { name, since, reason } = live.connection();
    const lost = name === "lost" && Date.now() - since >= PATIENCE_MILLISECONDS;
    const text =
      { live: "Live", resting: "Resting", connecting: "Connecting" }[name] ??
      (lost ? "Connection lost" : "Live");
    this.state.dataset.state = lost ? "lost" : name === "lost" ? "live" : name;
    setText(this.state, text);
    document.body.classList.toggle("stale", lost);
    if (lost) {
      const why = reason ?? "Carpool cannot be reached.";
      const old = live.latest() === null ? "" : " What you see is how things stood then.";
      setText(
        this.banner,
        `${why} No news since ${moment(since / 1000)}, for ${span(Math.floor((Date.now() - since) / 5000) * 5 || 1)}.${old} Carpool is tried again by itself.`,
      );
    }
    if (this.banner.hidden === lost) {
      this.banner.hidden = !lost;
      if (!lost && name === "live") announce("The connection is back.");
    }
  }
}
