// Reads the text of PDF files with pdf.js. This module and its worker are loaded when the first PDF is attached.

import { getDocument, GlobalWorkerOptions, type PDFPageProxy } from "pdfjs-dist/legacy/build/pdf.mjs";
import workerUrl from "pdfjs-dist/legacy/build/pdf.worker.min.mjs?url";

GlobalWorkerOptions.workerSrc = workerUrl;

// The CMaps of Adobe, which tell what the codes in a text mean. pdf.js loads those that a file names.
const CMAPS = new URL("cmaps/", new URL(workerUrl, document.baseURI)).href;

export interface PdfText {
  text: string;
  pages: number;
}

const ONLY_ERRORS = 0; // in the console: warnings are about fonts and pictures, which are not drawn

// Returns the text of all pages, or why there is none: "long" means more than `limit` characters.
export async function readPdf(data: Uint8Array, limit: number): Promise<PdfText | "password" | "damaged" | "long"> {
  const loading = getDocument({
    data,
    verbosity: ONLY_ERRORS,
    cMapUrl: CMAPS,
    useWorkerFetch: false,
    useWasm: false,
    useSystemFonts: false,
  });
  try {
    const pdf = await loading.promise;
    const texts: string[] = [];
    let length = 0;
    for (let n = 1; n <= pdf.numPages; n++) {
      const text = await textOf(await pdf.getPage(n));
      texts.push(text);
      length += text.length;
      if (length > limit) return "long";
    }
    return { text: joined(texts), pages: pdf.numPages };
  } catch (error) {
    return error instanceof Error && error.name === "PasswordException" ? "password" : "damaged";
  } finally {
    await loading.destroy();
  }
}

// Returns the texts of pages as one text, with the numbers of the pages; "" if no page has a text.
function joined(texts: string[]): string {
  if (texts.length === 1 || !texts.some(Boolean)) return texts.join("");
  return texts.map((text, i) => `[Page ${i + 1}]\n${text}`).join("\n\n");
}

async function textOf(page: PDFPageProxy): Promise<string> {
  const { items } = await page.getTextContent();
  page.cleanup();
  return items.map((item) => ("str" in item ? item.str + (item.hasEOL ? "\n" : "") : "")).join("").replaceAll("\0", "").trim();
}
