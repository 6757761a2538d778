// Reads the numbers of the server's metrics that the page shows.

import { request } from "./request";

export interface Metrics {
  generated: number; // tokens of all answers so far
  read: number; // tokens of all prompts so far that were evaluated
  running: number; // requests
  waiting: number;
}

const NAMES: Record<keyof Metrics, string> = {
  generated: "llamacpp:tokens_predicted_total",
  read: "llamacpp:prompt_tokens_total",
  running: "llamacpp:requests_processing",
  waiting: "llamacpp:requests_deferred",
};

// Returns the metrics. Needs the key.
export async function readMetrics(): Promise<Metrics> {
  const lines = (await (await request("metrics")).text()).split("\n");
  const valueOf = (name: string) => Number(lines.find((line) => line.startsWith(name))?.split(" ").at(-1) ?? 0);
  return {
    generated: valueOf(NAMES.generated),
    read: valueOf(NAMES.read),
    running: valueOf(NAMES.running),
    waiting: valueOf(NAMES.waiting),
  };
}
