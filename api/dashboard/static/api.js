/** Asks `/admin/v1`: errors in OpenAI's shape become `Refused`, a lost connection `Away`. */

let csrf = null;
let onUnauthorized = () => {};

/** The server said no; `status`, and `param` and `code` where it named them. */
export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The server answered with status ${status}.`);
    this.name = "Refused";
    this.status = status;
    this.code = body?.error?.code ?? null;
    this.param = body?.error?.param ?? null;
  }
}

/** The server could not be reached. */
export class Away extends Error {
  constructor() {
    super("Carpool cannot be reached.");
    this.name = "Away";
  }
}

/** What unsafe methods carry, so that no other site can send them. */
export function setCsrf(token) {
  csrf = token;
}

/** What to do where the session is over. */
export function whenUnauthorized(listener) {
  onUnauthorized = listener;
}

/** An address below `/admin/v1`; of the query, what is null or empty is left out. */
export function address(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") parameters.set(name, value);
  }
  const text = parameters.toString();
  return `admin/v1/${path}${text && `?${text}`}`;
}

/** The JSON of an answer. */
export async function ask(method, path, { query, body, signal } = {}) {
  const response = await send(method, path, { query, body, signal });
  return response.status === 204 ? null : response.json();
}

/** The response itself, once it is known to be no error. */
export async function send(method, path, { query, body, signal, accept } = {}) {
  const headers = {};
  if (method !== "GET" && csrf !== null) headers["x-carpool-csrf"] = csrf;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (accept !== undefined) headers.accept = accept;
  let response;
  try {
    response = await fetch(address(path, query), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Away();
  }
  if (response.ok) return response;
  const refused = new Refused(response.status, await response.json().catch(() => null));
  if (response.status === 401 && path !== "session") onUnauthorized();
  throw refused;
}

export const get = (path, options) => ask("GET", path, options);
export const post = (path, options) => ask("POST", path, options);
export const put = (path, options) => ask("PUT", path, options);
export const remove = (path, options) => ask("DELETE", path, options);

/** A part of a path: a model's name may hold slashes, which stay. */
export function segment(text) {
  return text.split("/").map(encodeURIComponent).join("/");
}
