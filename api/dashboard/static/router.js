/** Addresses behind the hash: `#/requests/req_1?team=a` is a page, an id and a query. */

/** `{page, id, query}` of the address; `id` may hold slashes, `query` is a plain object. */
export function place() {
  const hash = location.hash.replace(/^#\/?/, "");
  const [path, text = ""] = hash.split(/\?(.*)/s);
  const [page, ...rest] = path.split("/");
  const id = rest.map(decoded).join("/");
  return {
    page: page || "overview",
    id: id || null,
    query: Object.fromEntries(new URLSearchParams(text)),
  };
}

/** The hash of a page; of the query, what is empty is left out. */
export function link(page, id = null, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) parameters.set(name, value);
  const text = parameters.toString();
  const path = id === null ? page : `${page}/${id.split("/").map(encodeURIComponent).join("/")}`;
  return `#/${path}${text && `?${text}`}`;
}

/** Go there; without an entry in the history where it is the same page with another query. */
export function go(hash, { quietly = false } = {}) {
  if (quietly) history.replaceState(null, "", hash);
  else location.hash = hash;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
