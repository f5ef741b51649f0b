/** The DOM in five small words. */

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

/** Makes `elements` what the list holds, in this order; those that stay are not touched, so nobody reads them out again. */
export function arrange(list, elements) {
  const wanted = new Set(elements);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((element, index) => {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
}

/** Starts a CSS animation again from its beginning. */
export function replay(element, className) {
  element.classList.remove(className);
  void element.offsetWidth;
  element.classList.add(className);
}
