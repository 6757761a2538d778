// Reads files that the user chooses, and saves files.

import type { Attachment } from "../data/types";

const MB = 1 << 20;
const LIMITS = { text: 1 * MB, pdf: 50 * MB, image: 10 * MB }; // bytes; text: also of what a PDF contains
const IMAGES = ["image/png", "image/jpeg", "image/webp", "image/gif"];

export type FileProblem =
  | "fileTooLarge"
  | "fileTextTooLarge"
  | "fileNotText"
  | "fileNotRead"
  | "fileIsImage"
  | "fileIsOtherImage"
  | "fileHasPassword"
  | "fileDamaged"
  | "fileWithoutText";

// Says why a file cannot be attached, with the key of a text of the page.
export class FileError extends Error {
  constructor(
    readonly problem: FileProblem,
    readonly limit = 0, // MB
  ) {
    super(problem);
  }
}

// Returns a file as an attachment. `seesImages`: the model reads images. Raises FileError.
export async function readAttachment(file: File, seesImages: boolean): Promise<Attachment> {
  const start = await file.slice(0, 1024).text().catch(() => null);
  if (start === null) throw new FileError("fileNotRead"); // a folder, or a file that is gone
  const isPdf = start.startsWith("%PDF-") || (/\.pdf$/i.test(file.name) && start.includes("%PDF-"));
  if (isPdf) return { name: file.name, ...(await readPdfText(file)) };
  if (file.type.startsWith("image/") && file.type !== "image/svg+xml") {
    if (!seesImages) throw new FileError("fileIsImage");
    if (!IMAGES.includes(file.type)) throw new FileError("fileIsOtherImage");
    checkSize(file, LIMITS.image);
    return { name: file.name || "image", text: "", image: await toDataUrl(file) };
  }
  checkSize(file, LIMITS.text);
  return { name: file.name, text: await readText(file) };
}

function checkSize(file: File, limit: number): void {
  if (file.size > limit) throw new FileError("fileTooLarge", limit / MB);
}

async function readText(file: File): Promise<string> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new FileError("fileNotText"); // not UTF-8
  }
  if (text.includes("\0")) throw new FileError("fileNotText");
  return text;
}

async function readPdfText(file: File): Promise<Pick<Attachment, "text" | "pages">> {
  checkSize(file, LIMITS.pdf);
  const { readPdf } = await import("./pdf");
  const read = await readPdf(new Uint8Array(await file.arrayBuffer()), LIMITS.text);
  if (read === "password") throw new FileError("fileHasPassword");
  if (read === "damaged") throw new FileError("fileDamaged");
  if (read === "long") throw new FileError("fileTextTooLarge", LIMITS.text / MB);
  if (!read.text.trim()) throw new FileError("fileWithoutText");
  return read;
}

function toDataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(new FileError("fileNotRead"));
    reader.readAsDataURL(file);
  });
}

// Lets the user choose files.
export function chooseFiles(multiple: boolean, accept = ""): Promise<File[]> {
  return new Promise((resolve) => {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", multiple, accept });
    input.addEventListener("change", () => resolve([...(input.files ?? [])]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}

// Saves a text as a file of the given name.
export function saveFile(name: string, text: string, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
