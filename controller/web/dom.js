// Elements. All text goes in as text, never as markup.

/** Make an element: `h("p", { class: "x", onclick: f }, "text", child, null)`. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(parent, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(parent, child);
    else parent.append(child instanceof Node ? child : String(child));
  }
}

/** Put these in the place of all that is in `parent`. */
export function fill(parent, ...children) {
  const fragment = document.createDocumentFragment();
  append(fragment, children);
  parent.replaceChildren(fragment);
  return parent;
}

/** Set an element's text, and leave it alone when it has that already. */
export function text(element, value) {
  const wanted = value === null || value === undefined ? "" : String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Set a class name, when it is another. */
export function className(element, wanted) {
  if (element.className !== wanted) element.className = wanted;
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  append(element, children);
  return element;
}

/** The colour that a custom property has now, for what is drawn on a canvas. */
export function colour(name) {
  const probe = document.getElementById("probe");
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

/** Tell who does not see the page; the last word counts. */
let saying = 0;
export function announce(message) {
  clearTimeout(saying);
  saying = setTimeout(() => text(document.getElementById("live"), message), 400);
}

/** A link within the page. */
export function link(href, ...children) {
  return h("a", { href }, ...children);
}
