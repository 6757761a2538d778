// Finds the texts of the chosen language.

import { en, type Strings } from "./en";

// The languages of the page, by their codes. A file may lack texts: the English ones are used instead.
export const LANGUAGES: Record<string, { name: string; load: () => Promise<Partial<Strings>> }> = {
  en: { name: "English", load: async () => en },
};

let texts: Strings = en;

// Loads the chosen language, or that of the browser.
export async function setLanguage(chosen: string): Promise<void> {
  const wanted = [chosen, ...navigator.languages, "en"].map((code) => code.split("-")[0]!);
  const code = wanted.find((code) => code in LANGUAGES)!;
  texts = { ...en, ...(await LANGUAGES[code]!.load()) };
  document.documentElement.lang = code;
}

// Returns a text, with `{name}` replaced by the value of `name`.
export function t(key: keyof Strings, values: Record<string, string | number> = {}): string {
  return texts[key].replace(/\{(\w+)\}/g, (all, name: string) => String(values[name] ?? all));
}

// Returns a number as the language writes it, with at most `digits` digits after the point.
export function number(value: number, digits = 0): string {
  formats[digits] ??= new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: digits });
  return formats[digits].format(value);
}

const formats: Intl.NumberFormat[] = []; // by the number of digits; the page is loaded again for another language
