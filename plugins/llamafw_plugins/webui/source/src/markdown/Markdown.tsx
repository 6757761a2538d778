// Shows Markdown. While a text grows, only its last block is rendered again.

import type { Token, Tokens } from "marked";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { CodeBlock } from "./CodeBlock";
import { GrowingParser, parse, toHtml } from "./parse";

// `isGrowing`: more text is expected at the end.
export function Markdown({ text, isGrowing }: { text: string; isGrowing: boolean }) {
  const parser = useRef<GrowingParser | null>(null);
  parser.current ??= new GrowingParser();
  const all = useMemo(() => (isGrowing ? parser.current!.parse(text) : parse(text)), [text, isGrowing]);
  const blocks = all.filter((block) => block.type !== "space" && block.type !== "def");
  return (
    <div class="markdown">
      {blocks.map((block, i) => (
        <Block key={i} block={block} isGrowing={isGrowing && i === blocks.length - 1} />
      ))}
    </div>
  );
}

function Block({ block, isGrowing }: { block: Token; isGrowing: boolean }) {
  return useMemo(() => render(block, isGrowing), [block.raw, block.type, isGrowing]);
}

function render(block: Token, isGrowing: boolean) {
  if (block.type === "code") {
    const { text, lang } = block as Tokens.Code;
    return <CodeBlock code={text} language={lang?.split(/\s/)[0] ?? ""} isGrowing={isGrowing} />;
  }
  if (block.type === "list") return <List list={block as Tokens.List} isGrowing={isGrowing} />;
  if (block.type === "blockquote") {
    return <blockquote>{blocksOf((block as Tokens.Blockquote).tokens, isGrowing)}</blockquote>;
  }
  if (block.type === "table") return <div class="table" tabIndex={0} role="region"><Html block={block} /></div>;
  return <Html block={block} />;
}

function blocksOf(tokens: Token[], isGrowing: boolean) {
  const blocks = tokens.filter((token) => !["space", "def", "checkbox"].includes(token.type));
  return blocks.map((block, i) => <Block key={i} block={block} isGrowing={isGrowing && i === blocks.length - 1} />);
}

function List({ list, isGrowing }: { list: Tokens.List; isGrowing: boolean }) {
  const items = list.items.map((item, i) => (
    <li key={i} class={item.task ? "task" : undefined}>
      {item.task && <span class="task-state">{item.checked ? "☑" : "☐"}</span>}
      {blocksOf(item.tokens, isGrowing && i === list.items.length - 1)}
    </li>
  ));
  return list.ordered ? <ol start={Number(list.start)}>{items}</ol> : <ul>{items}</ul>;
}

// Shows the HTML of a block and renders its formulas.
function Html({ block }: { block: Token }) {
  const element = useRef<HTMLDivElement>(null);
  const html = toHtml(block);
  useLayoutEffect(() => {
    const formulas = [...(element.current?.querySelectorAll<HTMLElement>(".math") ?? [])];
    if (!formulas.length) return;
    let isCurrent = true;
    void import("./formulas").then(({ renderFormula }) => {
      if (isCurrent) formulas.forEach((formula) => renderFormula(formula));
    });
    return () => {
      isCurrent = false;
    };
  }, [html]);
  return <div ref={element} class="block" dangerouslySetInnerHTML={{ __html: html }} />;
}
