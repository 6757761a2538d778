// Parses Markdown with formulas into marked's tokens, and turns tokens into safe HTML.

import DOMPurify from "dompurify";
import { Marked, type Token, type TokenizerAndRendererExtension } from "marked";

const BLOCK_MATH = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
// "$5 and $6" is no formula: spaces may not follow the first dollar, nor precede the last, nor a digit follow it.
const INLINE_MATH = /^(?:\$\$([^$\n]+?)\$\$|\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<![\s\\])\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\])/;

const blockMath: TokenizerAndRendererExtension = {
  name: "blockMath",
  level: "block",
  start: (source) => source.match(/\n {0,3}(?:\$\$|\\\[)/)?.index,
  tokenizer(source) {
    const match = BLOCK_MATH.exec(source);
    return match ? { type: "blockMath", raw: match[0], text: (match[1] ?? match[2])!.trim() } : undefined;
  },
  renderer: ({ text }) => `<div class="math">${escape(text as string)}</div>`,
};

const inlineMath: TokenizerAndRendererExtension = {
  name: "inlineMath",
  level: "inline",
  start: (source) => source.match(/\$|\\[([]/)?.index,
  tokenizer(source) {
    const match = INLINE_MATH.exec(source);
    return match ? { type: "inlineMath", raw: match[0], text: match.slice(1).find((part) => part !== undefined) } : undefined;
  },
  renderer: ({ text }) => `<span class="math">${escape(text as string)}</span>`,
};

const marked = new Marked({ gfm: true, breaks: true });
marked.use({ extensions: [blockMath, inlineMath] });

// Returns the blocks of a text.
export function parse(text: string): Token[] {
  return marked.lexer(text);
}

const N_UNSETTLED = 2; // blocks at the end that more text may join: an item of a list may follow an empty line

// Parses a text that grows at its end: only its last blocks again. A text that is complete is parsed with `parse`, for
// there are rare blocks that begin long before their end, such as formulas with empty lines.
export class GrowingParser {
  private text = "";
  private blocks: Token[] = [];

  // Returns the blocks of a text, which are the same objects as before where nothing has changed.
  parse(text: string): Token[] {
    const kept = text.startsWith(this.text) ? this.settled() : [];
    const length = kept.reduce((sum, { raw }) => sum + raw.length, 0);
    this.text = text;
    this.blocks = [...kept, ...parse(text.slice(length))];
    return this.blocks;
  }

  // Returns the blocks that more text does not change. A definition of a link changes all blocks that use it.
  private settled(): Token[] {
    const isExact = this.blocks.reduce((sum, { raw }) => sum + raw.length, 0) === this.text.length;
    if (!isExact || this.blocks.some(({ type }) => type === "def")) return [];
    const starts = this.blocks.flatMap((block, i) => (this.blocks[i - 1]?.type === "space" && block.type !== "space" ? [i] : []));
    return this.blocks.slice(0, starts.at(-N_UNSETTLED) ?? 0);
  }
}

// Returns the safe HTML of one block, without forms, styles, and names that scripts could confuse with their own.
export function toHtml(token: Token): string {
  return purify.sanitize(withoutHandlers(marked.parser([token])));
}

// Renames inline event handlers, which DOMPurify drops anyway: browsers report a violation as soon as they parse one.
function withoutHandlers(html: string): string {
  return html.replace(/<[a-z][^>]*>/gi, (tag) => tag.replace(/([\s"'/])on[a-z]+(?=\s*=)/gi, "$1dropped"));
}

const purify = DOMPurify(window);
purify.setConfig({
  USE_PROFILES: { html: true },
  FORBID_TAGS: ["style", "form", "input", "button", "textarea", "select", "dialog", "audio", "video", "picture", "source"],
  FORBID_ATTR: ["style", "id", "name", "srcset", "background"],
});
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node instanceof HTMLImageElement && !node.getAttribute("src")?.startsWith("data:")) {
    node.replaceWith(linkTo(node.getAttribute("src") ?? "", node.alt || node.src)); // the page loads nothing from elsewhere
  }
  if (node instanceof HTMLAnchorElement) openElsewhere(node);
});

function linkTo(href: string, text: string): HTMLElement {
  const link = document.createElement("a");
  link.href = href;
  link.textContent = text;
  openElsewhere(link);
  return link;
}

function openElsewhere(link: HTMLAnchorElement): void {
  link.target = "_blank";
  link.rel = "noopener noreferrer";
}

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
