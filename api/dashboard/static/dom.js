/** Elements made and kept up to date. Text enters the page as text: nothing here takes markup. */

/**
 * An element: `properties` are attributes, but for `class`, `text`, `data` (an object), `on` (an
 * object of listeners), and booleans, which are present or absent. Children are nodes or text.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) {
        element.addEventListener(event, listener);
      }
    } else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Change a text only where it differs, so that a selection in it survives. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute, or take it away where the value is null. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** A figure for people, with the exact one where the pointer rests. */
export function setFigure(element, text, exact = "") {
  setText(element, text);
  setAttribute(element, "title", exact && exact !== text ? exact : null);
}

/**
 * Make the children of `parent` show `items`, in their order: those known by `key` are updated in
 * place, new ones are made by `create(item)`, others are taken away.
 *
 * `create` gives an element; `update(element, item)` is called for each, new or known.
 */
export function keyed(parent, items, { key, create, update = () => {} }) {
  const known = parent.carpoolKeyed ?? new Map();
  const shown = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const name = String(key(item));
    if (shown.has(name)) continue;
    const element = known.get(name) ?? create(item);
    shown.set(name, element);
    update(element, item);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  for (const [name, element] of known) if (!shown.has(name)) element.remove();
  parent.carpoolKeyed = shown;
}

/** Put these in the place of all that an element holds. */
export function replace(element, ...children) {
  delete element.carpoolKeyed;
  element.replaceChildren(...children.flat().filter((child) => child !== null));
}

/** A copy of one of the page's drawings. */
export function icon(name) {
  return document.getElementById(`icon-${name}`).content.firstElementChild.cloneNode(true);
}

let numbers = 0;

/** An id that nothing else on the page has. */
export function freshId(stem) {
  numbers += 1;
  return `${stem}-${numbers}`;
}

/** Tell those who listen to the page what has happened. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  // The same words twice are no change, and would not be read out.
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}
