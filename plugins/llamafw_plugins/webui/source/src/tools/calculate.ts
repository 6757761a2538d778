// A tool that calculates. Expressions are parsed here, never run as scripts.

import { t } from "../strings";
import type { Tool } from "./index";

const CONSTANTS: Record<string, number> = { pi: Math.PI, e: Math.E };

const FUNCTIONS: Record<string, (...values: number[]) => number> = {
  ...{ sqrt: Math.sqrt, cbrt: Math.cbrt, abs: Math.abs, exp: Math.exp, ln: Math.log, log: Math.log10, log2: Math.log2 },
  ...{ sin: Math.sin, cos: Math.cos, tan: Math.tan, asin: Math.asin, acos: Math.acos, atan: Math.atan },
  ...{ round: Math.round, floor: Math.floor, ceil: Math.ceil, min: Math.min, max: Math.max },
};

export const calculator: Tool = {
  name: "calculate",
  get title() {
    return t("toolCalculate");
  },
  description:
    "Calculate an expression with + - * / % ^ and parentheses. " +
    `Functions: ${Object.keys(FUNCTIONS).join(", ")}. log is decimal, angles are in radians. Constants: pi, e.`,
  parameters: {
    type: "object",
    properties: { expression: { type: "string", description: "For example: 2 * sqrt(2) + 3^2" } },
    required: ["expression"],
  },
  run: ({ expression }) => String(calculate(String(expression))),
};

const TOKEN = /\s*(?:(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)|([a-z]\w*)|(\*\*|[-+*/%^(),]))/iy;
const MAX_LENGTH = 1000;
const END = "the end";

// Returns the value of an expression. Raises an error that says what is wrong.
export function calculate(expression: string): number {
  if (expression.length > MAX_LENGTH) throw new Error(`the expression is longer than ${MAX_LENGTH} characters`);
  const parser = new Parser(tokensOf(expression));
  const value = parser.sum();
  parser.take(END);
  if (Number.isNaN(value)) throw new Error("the expression has no real value");
  return value;
}

function tokensOf(expression: string): string[] {
  const tokens: string[] = [];
  let at = 0;
  while (expression.slice(at).trim()) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(expression);
    if (!match) throw new Error(`${JSON.stringify(expression.slice(at).trim()[0])} is not understood`);
    tokens.push(match[0].trim());
    at = TOKEN.lastIndex;
  }
  return [...tokens, END];
}

// Each method reads as much as its rule allows: sums of products of signed powers.
class Parser {
  private at = 0;

  constructor(private readonly tokens: string[]) {}

  sum(): number {
    let value = this.product();
    for (;;) {
      if (this.has("+")) value += this.product();
      else if (this.has("-")) value -= this.product();
      else return value;
    }
  }

  take(token: string): void {
    if (!this.has(token)) throw new Error(`${token} was expected before ${this.tokens[this.at]}`);
  }

  private product(): number {
    let value = this.signed();
    for (;;) {
      if (this.has("*")) value *= this.signed();
      else if (this.has("/")) value /= this.signed();
      else if (this.has("%")) value %= this.signed();
      else return value;
    }
  }

  // -2^2 is -(2^2), and 2^-1 and 2^3^2 are 2^(-1) and 2^(3^2).
  private signed(): number {
    if (this.has("-")) return -this.signed();
    if (this.has("+")) return this.signed();
    const base = this.single();
    return this.has("^") || this.has("**") ? base ** this.signed() : base;
  }

  private single(): number {
    const token = this.tokens[this.at++]!;
    if (/^[\d.]/.test(token)) return Number(token);
    if (token === "(") return this.closed(this.sum());
    const name = token.toLowerCase();
    if (Object.hasOwn(CONSTANTS, name)) return CONSTANTS[name]!;
    if (!Object.hasOwn(FUNCTIONS, name)) throw new Error(`a number was expected, not ${token}`);
    this.take("(");
    const values = [this.sum()];
    while (this.has(",")) values.push(this.sum());
    return this.closed(FUNCTIONS[name]!(...values));
  }

  private closed(value: number): number {
    this.take(")");
    return value;
  }

  private has(token: string): boolean {
    if (this.tokens[this.at] !== token) return false;
    this.at++;
    return true;
  }
}
