// Renders formulas with KaTeX. This module and its fonts are loaded when the first formula is shown.

import "katex/dist/katex.min.css";
import katex from "katex";

// Replaces the TeX source in an element by the formula. If KaTeX cannot read it, the source stays.
export function renderFormula(element: HTMLElement): void {
  const source = element.textContent ?? "";
  const displayMode = element.tagName === "DIV";
  try {
    katex.render(source, element, { displayMode, throwOnError: true, trust: false, maxExpand: 500, maxSize: 50 });
    if (displayMode) Object.assign(element, { tabIndex: 0, role: "math" }); // a wide formula can be scrolled
  } catch {
    element.replaceChildren(source);
    element.classList.add("invalid");
  }
}
