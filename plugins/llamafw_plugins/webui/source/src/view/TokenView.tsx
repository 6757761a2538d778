// Shows the tokens of an answer, coloured by their probability. A token shows its alternatives when the mouse or the
// focus is on it.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { TokenProbability } from "../data/types";
import { onEscape } from "../state/escape";
import { number, t } from "../strings";

export function TokenView({ tokens }: { tokens: TokenProbability[] }) {
  const [at, setAt] = useState(0); // the token that Tab reaches; arrow keys move it
  const [shown, setShown] = useState<number | null>(null);
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = Math.min(tokens.length - 1, Math.max(0, at + step));
    setAt(next);
    (event.currentTarget as HTMLElement).querySelectorAll<HTMLElement>(".token")[next]?.focus();
  };
  return (
    <div class="tokens" role="group" aria-label={t("showTokens")} onKeyDown={move} onMouseLeave={() => setShown(null)}>
      {tokens.map((token, i) => (
        <span key={i} class="token-place">
          <span
            class={`token level-${level(token.logprob)}`}
            tabIndex={i === at ? 0 : -1}
            role="button"
            aria-label={describe(token.token, token.logprob)}
            aria-describedby={shown === i ? "token-details" : undefined}
            onMouseEnter={() => setShown(i)}
            onFocus={() => (setShown(i), setAt(i))}
            onBlur={() => setShown(null)}
          >
            {token.token}
          </span>
          {shown === i && <Details token={token} onClose={() => setShown(null)} />}
        </span>
      ))}
    </div>
  );
}

function Details({ token, onClose }: { token: TokenProbability; onClose: () => void }) {
  const element = useRef<HTMLElement>(null);
  useLayoutEffect(() => {
    place(element.current!);
    return onEscape(onClose);
  }, []);
  return (
    <span ref={element} class="token-details" id="token-details" role="tooltip">
      <strong>{describe(token.token, token.logprob)}</strong>
      {token.top.length > 0 && <span>{t("tokenAlternatives", { token: visible(token.token) })}</span>}
      {token.top
        .filter((other) => other.token !== token.token)
        .map((other) => (
          <span key={other.token} class="token-row">
            <code>{visible(other.token)}</code>
            <span>{percent(other.logprob)}</span>
          </span>
        ))}
    </span>
  );
}

// Puts the details below their token, or above it where there is no room.
function place(details: HTMLElement): void {
  const token = details.parentElement!.getBoundingClientRect();
  const { width, height } = details.getBoundingClientRect();
  const isLow = token.bottom + height > innerHeight - 8;
  details.style.top = `${isLow ? token.top - height - 2 : token.bottom + 2}px`;
  details.style.left = `${Math.max(8, Math.min(token.left, innerWidth - width - 8))}px`;
}

// Returns 0 for the least likely tokens and 4 for the most likely ones.
function level(logprob: number): number {
  const probability = Math.exp(logprob);
  return [0.05, 0.2, 0.5, 0.8].filter((limit) => probability >= limit).length;
}

const describe = (token: string, logprob: number) => t("probabilityOf", { token: visible(token), percent: percent(logprob) });
const percent = (logprob: number) => `${number(Math.exp(logprob) * 100, 1)} %`;
const visible = (token: string) => token.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");
