/**
 * Makes elements from data. Whatever comes from a request becomes text or a checked attribute,
 * never markup: nothing here parses HTML.
 */

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** What elements were filled with last, see `fill`. */
const FILLED_WITH = new WeakMap();

/** An HTML element; attributes that are null, undefined or false are left out. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element, likewise. */
export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

/** The element of index.html with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Set an element's text; untouched when it says so already, so that selections survive polling. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Replace what an element holds, when `key` differs from what it was filled with last. */
export function fill(node, key, children) {
  if (FILLED_WITH.get(node) === key) return;
  FILLED_WITH.set(node, key);
  node.replaceChildren(...children());
}

/**
 * Bring a parent's children in line with items, reusing those with the same key.
 *
 * What stays in place is never moved: an element that moves loses the keyboard's focus.
 */
export function reconcile(parent, items, keyOf, make, update) {
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  const present = new Map();
  for (const child of [...parent.children]) {
    if (wanted.has(child.dataset.key)) present.set(child.dataset.key, child);
    else child.remove();
  }
  const focused = document.activeElement;
  let next = parent.firstElementChild;
  for (const [key, item] of wanted) {
    let child = present.get(key);
    if (child === undefined) {
      child = make(item);
      child.dataset.key = key;
    }
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    update(child, item);
  }
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
