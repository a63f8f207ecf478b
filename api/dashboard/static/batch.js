/** One batch: its progress, its failed lines, and what can be done with it. */

import { address, get, post } from "./api.js";
import { batchName, BatchProgress, OPEN } from "./batch_progress.js";
import { confirm } from "./dialog.js";
import { announce, h, icon, keyed, replace, setFigure, setText } from "./dom.js";
import { Figure } from "./figure.js";
import { ago, count, fullMoment, many, moment, NONE, percent, short, span } from "./format.js";
import { onChanged } from "./live.js";
import { empty, failure, heading, loading, section } from "./notices.js";
import { PagesList } from "./pages_list.js";
import { go, link } from "./router.js";
import { session } from "./session.js";
import { badge, setBadge } from "./status.js";

const REFRESH_MILLISECONDS = 2000;
const TIMES = [
  ["created_at", "Created"],
  ["in_progress_at", "Started"],
  ["finalizing_at", "Lines done"],
  ["completed_at", "Completed"],
  ["failed_at", "Failed"],
  ["cancelling_at", "Cancel asked"],
  ["cancelled_at", "Cancelled"],
  ["expired_at", "Expired"],
  ["expires_at", "Deadline"],
];

export class BatchView {
  constructor(root, id) {
    this.id = id;
    this.batch = null;
    this.closed = false;
    this.root = root;
    this.body = h("div", {}, heading("Batch"), h("div", { class: "card" }, loading()));
    root.append(
      h("p", { class: "back" }, h("a", { href: link("batches"), text: "All batches" })),
      this.body,
    );
    this.stop = onChanged((what) => (what === "batches" || what === null) && this.refresh());
    this.timer = setInterval(() => {
      if (this.batch !== null && OPEN.has(this.batch.status) && !document.hidden) this.refresh();
    }, REFRESH_MILLISECONDS);
    this.refresh();
  }

  async refresh() {
    try {
      const found = await get(`batches/${encodeURIComponent(this.id)}`);
      if (!this.closed) this.#show(found);
    } catch (error) {
      if (this.closed || this.batch !== null) return;
      replace(
        this.body,
        heading("Batch"),
        h(
          "div",
          { class: "card" },
          failure(error, () => this.refresh()),
        ),
      );
    }
  }

  close() {
    this.closed = true;
    this.stop();
    this.failures?.close();
    clearInterval(this.timer);
  }

  #show(batch) {
    const first = this.batch === null;
    const failedBefore = this.batch?.request_counts.failed;
    this.batch = batch;
    if (first) this.#make(batch);
    const { total, completed, failed } = batch.request_counts;
    const open = OPEN.has(batch.status);
    setBadge(this.badge, batch.status);
    this.progress.show(batch);
    this.completed.show(count(completed), "", total ? percent(completed / total) : "");
    this.failed.show(count(failed), "", total ? percent(failed / total) : "");
    this.failed.element.classList.toggle("bad", failed > 0);
    this.left.show(count(total - completed - failed));
    this.rate.show(batch.lines_per_second ? `${batch.lines_per_second.toFixed(1)}/s` : NONE);
    this.eta.show(span(batch.eta_seconds));
    const {
      input_tokens: input,
      output_tokens: output,
      input_tokens_details: details,
    } = batch.usage;
    this.input.show(
      short(input),
      count(input),
      input ? `${percent((details?.cached_tokens ?? 0) / input)} from a cache` : "",
    );
    this.written.show(short(output), count(output));
    this.cancel.hidden = !open || batch.status === "cancelling";
    this.retry.hidden = open || total - completed <= 0;
    this.output.hidden = !batch.output_file_id || !this.#sees;
    this.error.hidden = !batch.error_file_id || !this.#sees;
    this.hidden.hidden = this.#sees || !(batch.output_file_id || batch.error_file_id);
    keyed(
      this.times,
      TIMES.filter(([name]) => batch[name]),
      {
        key: ([name]) => name,
        create: ([, text]) => h("div", {}, h("dt", { text }), h("dd", {})),
        update: (element, [name]) =>
          setFigure(element.lastElementChild, moment(batch[name]), fullMoment(batch[name])),
      },
    );
    this.problems.hidden = !batch.errors?.data?.length;
    keyed(this.problemList, batch.errors?.data ?? [], {
      key: (error) => JSON.stringify(error),
      create: (error) =>
        h(
          "li",
          { class: "problem" },
          icon("alert"),
          h("p", {
            class: "problem-text",
            text: `${error.line ? `Line ${error.line}: ` : ""}${error.message}`,
          }),
        ),
    });
    this.failuresBox.hidden = failed === 0;
    if (failed !== failedBefore && failed > 0) {
      if (failedBefore) this.failures.refresh();
      else this.failures.restart();
    }
  }

  get #sees() {
    return session()?.sees_bodies ?? false;
  }

  #make(batch) {
    const name = batchName(batch);
    document.title = `${name} · Carpool`;
    const button = (text, id, act, more = "") =>
      h("button", { type: "button", class: `button ${more}`, id, text, on: { click: act } });
    const download = (what, text) =>
      h("a", {
        class: "button",
        id: `download-${what}`,
        href: address(`batches/${encodeURIComponent(this.id)}/${what}`),
        download: "",
        text,
      });
    this.badge = badge(batch.status);
    this.cancel = button("Cancel", "cancel-batch", () => this.#cancel());
    this.retry = button("Retry what failed", "retry-batch", () => this.#retry());
    this.output = download("output", "Download answers");
    this.error = download("error", "Download errors");
    this.progress = new BatchProgress("Progress");
    this.times = h("dl", { class: "facts" });
    this.hidden = h("p", {
      class: "hint",
      text: "Its files are hidden: this key may not see bodies.",
    });
    for (const [key, title] of [
      ["completed", "Completed"],
      ["failed", "Failed"],
      ["left", "Left"],
      ["rate", "Lines"],
      ["eta", "Done in about"],
      ["input", "Tokens in"],
      ["written", "Tokens out"],
    ]) {
      this[key] = new Figure(title, { id: `batch-${key}` });
    }
    this.problemList = h("ul", { class: "problems" });
    this.problems = section("Why it failed", "batch-problems", this.problemList);
    this.failures = new PagesList({
      path: `batches/${encodeURIComponent(this.id)}/failures`,
      query: () => ({}),
      table: {
        id: "failures-table",
        caption: "Failed lines",
        key: ({ id }) => id,
        none: empty("No line has failed."),
        columns: [
          {
            title: "Line",
            make: (cell, line) =>
              cell.append(
                h("a", {
                  class: "name",
                  href: link("requests", line.id),
                  title: line.custom_id,
                  text: line.custom_id ?? line.id,
                }),
              ),
            update: () => {},
          },
          { title: "No.", number: true, make: (cell, { line }) => setText(cell, count(line)) },
          {
            title: "Status",
            number: true,
            make: (cell, line) =>
              setText(cell, line.status_code === null ? NONE : String(line.status_code)),
          },
          {
            title: "Code",
            make: (cell, { code }) => cell.append(h("span", { class: "mono", text: code ?? NONE })),
          },
          {
            title: "What went wrong",
            wide: true,
            make: (cell, { message }) => setText(cell, message ?? ""),
          },
        ],
      },
    });
    this.failuresBox = section("Failed lines", "failures", this.failures.element);
    replace(
      this.body,
      heading(
        name,
        h(
          "span",
          { class: "under" },
          this.badge,
          h("span", { text: `team ${batch.team}` }),
          h("span", { text: batch.model ?? batch.endpoint }),
          h("span", {
            title: fullMoment(batch.created_at),
            text: `created ${ago(batch.created_at)}`,
          }),
          h("a", { href: link("requests", null, { batch: batch.id }), text: "its requests" }),
        ),
        this.output,
        this.error,
        this.retry,
        this.cancel,
      ),
      h(
        "div",
        { class: "stack" },
        h(
          "div",
          { class: "card stack-small" },
          this.progress.element,
          h(
            "dl",
            { class: "figures" },
            [
              this.completed,
              this.failed,
              this.left,
              this.rate,
              this.eta,
              this.input,
              this.written,
            ].map(({ element }) => element),
          ),
          this.hidden,
        ),
        this.problems,
        this.failuresBox,
        section(
          "Times",
          "times",
          h(
            "div",
            { class: "card stack-small" },
            this.times,
            h("p", { class: "hint mono wrap", text: batch.id }),
          ),
        ),
      ),
    );
  }

  async #cancel() {
    const { total, completed, failed } = this.batch.request_counts;
    const done = await confirm("Cancel this batch?", {
      text: `${many(Math.max(total - completed - failed, 0), "line")} will not be answered. What is done stays, and can be downloaded.`,
      action: "Cancel the batch",
      danger: true,
      act: () => post(`batches/${encodeURIComponent(this.id)}/cancel`),
    });
    if (!done) return;
    announce("The batch is being cancelled.");
    this.refresh();
  }

  async #retry() {
    const { total, completed } = this.batch.request_counts;
    let made = null;
    const done = await confirm("Retry what failed?", {
      text: `A new batch of team ${this.batch.team} is made of the ${many(total - completed, "line")} without an answer.`,
      action: "Make the batch",
      act: async () => {
        made = await post(`batches/${encodeURIComponent(this.id)}/retry`);
      },
    });
    if (!done) return;
    announce("The new batch is made.");
    go(link("batches", made.id));
  }
}
