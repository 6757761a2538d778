// Colours code with highlight.js. This module is loaded when the first block of code is shown.

import highlighter from "highlight.js/lib/common";

// Returns the HTML of coloured code, or null if the language is not known.
export function highlight(code: string, language: string): string | null {
  if (!highlighter.getLanguage(language)) return null;
  return highlighter.highlight(code, { language, ignoreIllegals: true }).value;
}
