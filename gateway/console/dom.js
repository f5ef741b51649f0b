/** The DOM in four small words. */

export const byId = (id) => document.getElementById(id);

/** A copy of the template `id`, and a finder for its `data-at` and `data-do` parts. */
export function stamp(id) {
  const element = byId(id).content.firstElementChild.cloneNode(true);
  const part = (name) => element.querySelector(`[data-at="${name}"],[data-do="${name}"]`);
  return { element, part };
}

export function spawn(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Starts a CSS animation again from its beginning. */
export function replay(element, className) {
  element.classList.remove(className);
  void element.offsetWidth;
  element.classList.add(className);
}
