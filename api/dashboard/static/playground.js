/** A small chat with any model's name; each answer says which backend it came from. */

import { send } from "./api.js";
import { announce, h, keyed, setText } from "./dom.js";
import { modelNames } from "./filters.js";
import { count, span } from "./format.js";
import { heading } from "./notices.js";
import { go, link } from "./router.js";
import { events } from "./sse.js";

/** The talk outlives the page, but not the tab. */
const talk = { model: "", system: "", turns: [], limit: "", temperature: "" };

export const page = { name: "playground", title: "Playground", mount };

function mount(root, { query }) {
  if (query.model) talk.model = query.model;
  const view = new Playground();
  root.append(
    heading("Playground", "Talk to any model name, and watch who answers."),
    view.element,
  );
  return {
    close: () => view.close(),
    move: (wanted) => {
      if (wanted.model) view.setModel(wanted.model);
      return true;
    },
  };
}

class Playground {
  constructor() {
    this.running = null;
    const setting = (name, label, attributes, tag = "input") => {
      const control = h(tag, { id: `chat-${name}`, autocomplete: "off", ...attributes });
      control.value = talk[name];
      control.addEventListener("input", () => {
        talk[name] = control.value;
      });
      this[name] = control;
      return h(
        "div",
        { class: "field" },
        h("label", { for: `chat-${name}`, text: label }),
        control,
      );
    };
    const known = h("datalist", { id: "chat-models" });
    const model = setting("model", "Model", {
      list: "chat-models",
      required: true,
      spellcheck: "false",
      placeholder: "A model's name",
    });
    modelNames().then(
      (names) => {
        known.append(...names.map((name) => h("option", { value: name })));
        const typing = document.activeElement === this.model;
        if (!talk.model && !typing && names.length) this.setModel(names[0]);
      },
      () => {},
    );
    this.model.addEventListener("change", () =>
      go(link("playground", null, { model: talk.model }), { quietly: true }),
    );
    this.turns = h("ol", {
      class: "turns",
      id: "chat-turns",
      "aria-label": "Conversation",
      tabindex: "0",
    });
    this.none = h("p", {
      class: "placeholder",
      text: "Nothing said yet. Each answer will name the backend, and the model there, that it came from: switch the route while you talk, and watch it change.",
    });
    this.input = h("textarea", {
      id: "chat-input",
      rows: "3",
      placeholder: "Your message; Enter sends it, Shift+Enter starts a line",
      "aria-label": "Your message",
      on: {
        keydown: (event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          this.form.requestSubmit();
        },
      },
    });
    this.sendButton = h("button", {
      type: "submit",
      class: "button primary",
      id: "chat-send",
      text: "Send",
    });
    this.stopButton = h("button", {
      type: "button",
      class: "button",
      id: "chat-stop",
      text: "Stop",
      hidden: true,
      on: { click: () => this.running?.abort() },
    });
    this.clearButton = h("button", {
      type: "button",
      class: "button quiet",
      id: "chat-clear",
      text: "Start anew",
      on: { click: () => this.#clear() },
    });
    this.form = h(
      "form",
      {
        class: "chat-form",
        "aria-label": "Say something",
        on: {
          submit: (event) => {
            event.preventDefault();
            this.#say();
          },
        },
      },
      this.input,
      h("div", { class: "chat-buttons" }, this.clearButton, this.stopButton, this.sendButton),
    );
    this.element = h(
      "div",
      { class: "chat" },
      h(
        "div",
        { class: "chat-settings card" },
        model,
        known,
        setting("system", "Instructions", { rows: "3", placeholder: "None" }, "textarea"),
        h(
          "div",
          { class: "pair" },
          setting("limit", "Most tokens", { inputmode: "numeric", placeholder: "no limit" }),
          setting("temperature", "Temperature", { inputmode: "decimal", placeholder: "default" }),
        ),
      ),
      h("div", { class: "chat-talk card" }, this.turns, this.none, this.form),
    );
    this.#show();
  }

  setModel(name) {
    talk.model = name;
    this.model.value = name;
  }

  close() {
    this.running?.abort();
  }

  #clear() {
    this.running?.abort();
    talk.turns = [];
    this.#show();
    this.input.focus();
  }

  #show() {
    keyed(this.turns, talk.turns, {
      key: (turn) => turn.id,
      create: (turn) =>
        h(
          "li",
          { class: "turn", data: { role: turn.role } },
          h("p", { class: "turn-who", text: turn.role === "user" ? "You" : turn.model }),
          h("div", { class: "turn-text" }),
          h("p", { class: "turn-source" }),
          h("p", { class: "form-error turn-error", role: "alert" }),
        ),
      update: (element, turn) => {
        setText(element.querySelector(".turn-text"), turn.text);
        setText(element.querySelector(".turn-error"), turn.error ?? "");
        const source = element.querySelector(".turn-source");
        source.hidden = turn.role === "user" || !turn.said;
        setText(source, turn.said ?? "");
        element.classList.toggle("writing", Boolean(turn.writing));
        if (turn.backend)
          Object.assign(element.dataset, { backend: turn.backend, upstream: turn.upstream });
      },
    });
    this.none.hidden = talk.turns.length > 0;
    this.turns.hidden = talk.turns.length === 0;
    this.clearButton.hidden = talk.turns.length === 0;
  }

  #tell() {
    const { turns } = this;
    const following = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 60;
    this.#show();
    if (following) turns.scrollTop = turns.scrollHeight;
  }

  async #say() {
    const text = this.input.value.trim();
    if (!text || this.running !== null) return;
    if (!talk.model.trim()) {
      this.model.reportValidity();
      return;
    }
    this.input.value = "";
    const answer = {
      id: crypto.randomUUID?.() ?? `${Date.now()}`,
      role: "assistant",
      model: talk.model.trim(),
      text: "",
      said: null,
      error: null,
      writing: true,
    };
    talk.turns.push({ id: `${answer.id}-asked`, role: "user", text }, answer);
    this.#show();
    this.turns.scrollTop = this.turns.scrollHeight;
    await this.#answer(answer);
  }

  async #answer(answer) {
    const stop = new AbortController();
    this.running = stop;
    this.sendButton.disabled = true;
    this.stopButton.hidden = false;
    try {
      await stream(answer, stop.signal, () => this.#tell());
      announce(`Answered by ${answer.backend ?? answer.model}.`);
    } catch (error) {
      if (error.name === "AbortError")
        answer.said = `${answer.said ? `${answer.said} · ` : ""}stopped`;
      else answer.error = error.message;
    } finally {
      answer.writing = false;
      this.running = null;
      this.sendButton.disabled = false;
      this.stopButton.hidden = true;
      this.#tell();
    }
  }
}

async function stream(answer, signal, tell) {
  const began = performance.now();
  const response = await send("POST", "chat/completions", {
    body: question(answer),
    signal,
    accept: "text/event-stream",
  });
  const usage = {};
  let first = null;
  let ended = false;
  const source = () => sourceOf(response, answer, { began, first, usage });
  answer.said = source();
  tell();
  for await (const { data } of events(response)) {
    if (data === "[DONE]") {
      ended = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    const piece = chunk.choices?.[0]?.delta?.content ?? "";
    if (piece && first === null) first = performance.now();
    answer.text += piece;
    if (chunk.usage) Object.assign(usage, chunk.usage);
    answer.said = source();
    tell();
  }
  if (!ended) throw new Error("The answer broke off.");
}

function question(answer) {
  const said = talk.turns.filter((turn) => turn !== answer && (turn.role === "user" || turn.text));
  const messages = said.map(({ role, text }) => ({ role, content: text }));
  if (talk.system.trim()) messages.unshift({ role: "system", content: talk.system });
  const body = {
    model: answer.model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  if (talk.limit.trim()) body.max_completion_tokens = Number(talk.limit);
  if (talk.temperature.trim()) body.temperature = Number(talk.temperature);
  return body;
}

function sourceOf(response, answer, { began, first, usage }) {
  const read = (name) => {
    const text = response.headers.get(name);
    if (text === null) return null;
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  };
  answer.backend = read("x-carpool-backend") ?? answer.backend ?? null;
  answer.upstream = read("x-carpool-upstream") ?? answer.upstream ?? null;
  const words = [];
  if (answer.backend)
    words.push(
      answer.upstream && answer.upstream !== answer.model
        ? `${answer.backend} as ${answer.upstream}`
        : answer.backend,
    );
  if (first !== null) words.push(`first words after ${span((first - began) / 1000)}`);
  if (usage.completion_tokens && first !== null) {
    const seconds = (performance.now() - first) / 1000;
    words.push(
      `${count(usage.completion_tokens)} tokens${seconds > 0.05 ? `, ${count(usage.completion_tokens / seconds)}/s` : ""}`,
    );
  }
  return words.join(" · ") || null;
}
