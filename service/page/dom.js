// Elements and small things that every part of the page needs. Text is only ever put in as text.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick` and so on) and children. Strings become text. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  set(node, attributes);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** The same for SVG. */
export function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  set(node, attributes);
  node.append(...children);
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
}

/** A picture out of the page's own set, which stands in index.html. */
export function icon(name) {
  const use = shape("use", { href: `#icon-${name}` });
  return shape("svg", { class: "icon", "aria-hidden": "true" }, use);
}

/** A button that does not send the form it is in. */
export const button = (attributes, ...children) => el("button", { type: "button", ...attributes }, ...children);

/** Seconds as minutes and seconds, or with hours. */
export function clock(s) {
  const whole = Math.floor(s);
  const seconds = String(whole % 60).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${seconds}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${seconds}`;
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

/** When a node comes into view, or nearly. */
export function seen(node) {
  return new Promise((resolve) => {
    const watcher = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        watcher.disconnect();
        resolve();
      },
      { rootMargin: "200px" },
    );
    watcher.observe(node);
  });
}

/** Say something in the line below the search, which screen readers read aloud. */
export function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

/** Something kept in this browser; null where it keeps nothing. */
export function recall(name) {
  try {
    return JSON.parse(localStorage.getItem(`tercet-${name}`));
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`tercet-${name}`, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing: the page works without.
  }
}

/** What an item, or a hit of it, is called. */
export const named = (item) => item.filename || item.id;

/** Say something below a player. */
export function note(node, text, ...more) {
  node.querySelector(".note").replaceChildren(text && ` ${text}`, ...more);
}

/** Whether somebody wants nothing to move by itself. */
export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
