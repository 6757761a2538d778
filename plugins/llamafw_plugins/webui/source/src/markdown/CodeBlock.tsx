// Shows a block of code in colours, with its language and buttons to copy it and to wrap its lines.

import { useEffect, useState } from "preact/hooks";
import { t } from "../strings";
import { CopyButton, IconButton } from "../view/controls";

const MAX_GROWING = 8000; // characters of code that is coloured while it grows
const MAX_COLOURED = 200_000;

export function CodeBlock({ code, language, isGrowing }: { code: string; language: string; isGrowing: boolean }) {
  const [isWrapped, setWrapped] = useState(false);
  const html = useHighlighted(code, language.toLowerCase(), isGrowing);
  return (
    <div class="code-block">
      <div class="code-bar">
        <span>{language}</span>
        <IconButton icon="wrap" label={t("wrapLines")} pressed={isWrapped} onClick={() => setWrapped(!isWrapped)} />
        <CopyButton text={code} label={t("copyCode")} />
      </div>
      <pre class={isWrapped ? "wrapped" : ""} tabIndex={0} role="region" aria-label={language || t("copyCode")}>
        {html === null ? <code>{code}</code> : <code dangerouslySetInnerHTML={{ __html: html }} />}
      </pre>
    </div>
  );
}

// Returns the HTML of coloured code, or null as long as there is none.
function useHighlighted(code: string, language: string, isGrowing: boolean): string | null {
  const [highlight, setHighlight] = useState<((code: string, language: string) => string | null) | null>(null);
  const isWanted = language !== "" && code.length < (isGrowing ? MAX_GROWING : MAX_COLOURED);
  useEffect(() => {
    if (isWanted && !highlight) void import("./highlight").then((module) => setHighlight(() => module.highlight));
  }, [isWanted]);
  return isWanted && highlight ? highlight(code, language) : null;
}
