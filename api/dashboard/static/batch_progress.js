/** How far a batch is, as a bar and in words. */

import { Meter } from "./figure.js";
import { count, percent, shortId } from "./format.js";

/** The states in which a batch still changes. */
export const OPEN = new Set(["validating", "in_progress", "finalizing", "cancelling"]);

/** Its own name where its creator gave one, or its id's beginning. */
export function batchName({ id, metadata }) {
  return metadata?.name ?? metadata?.description ?? shortId(id);
}

export class BatchProgress {
  constructor(label) {
    this.meter = new Meter(label);
    this.meter.box.classList.add("progress");
    this.meter.box.setAttribute("role", "progressbar");
    this.element = this.meter.element;
    this.element.classList.add("progressed");
  }

  show({ request_counts: { total, completed, failed }, status }) {
    const ended = completed + failed;
    if (!total) this.meter.show(null, status === "validating" ? "being read" : "no lines");
    else
      this.meter.show(ended / total, `${count(ended)} of ${count(total)}`, percent(ended / total));
  }
}
