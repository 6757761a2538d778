// What the server does, as it goes on: its slots, its speed and its requests.

import { useEffect, useState } from "preact/hooks";
import { readSlots, type Slot } from "../server/info";
import { readMetrics, type Metrics } from "../server/metrics";
import { number, t } from "../strings";

const INTERVAL = 2000; // milliseconds between two looks at the server
const MAX_POINTS = 30; // of a line: one minute

// The state of each slot, and a line of the tokens that all of them hold.
export function SlotCharts() {
  const [slots, setSlots] = useState<Slot[]>([]);
  const [points, setPoints] = useState<number[]>([]);
  useEffect(
    () =>
      poll(async () => {
        const next = await readSlots();
        setSlots(next);
        setPoints((points) => added(points, next.reduce((sum, { n_past = 0 }) => sum + n_past, 0)));
      }),
    [],
  );
  if (!slots.length) return null;
  const total = slots.reduce((sum, { n_ctx }) => sum + n_ctx, 0);
  const stateOf = ({ state }: Slot) => t(state === 0 ? "slotIdle" : state === 1 ? "slotReading" : "slotWriting");
  return (
    <section>
      <h2>{t("slots")}</h2>
      <ul class="slots">
        {slots.map((slot) => {
          const used = slot.n_past ?? 0;
          const values = { id: slot.id, state: stateOf(slot), used: number(used), total: number(slot.n_ctx) };
          const label = t("slotUse", values);
          return <li key={slot.id}>{label}<meter min={0} max={slot.n_ctx} value={used} aria-label={label} /></li>;
        })}
      </ul>
      <Chart
        lines={[points]}
        max={total}
        label={t("slotsNow", { n: number(points.at(-1) ?? 0), total: number(total) })}
      />
    </section>
  );
}

// Lines of the tokens per second, and of the requests that run and that wait.
export function MetricCharts() {
  const [speeds, setSpeeds] = useState<{ writing: number[]; reading: number[] }>({ writing: [], reading: [] });
  const [requests, setRequests] = useState<{ running: number[]; waiting: number[] }>({ running: [], waiting: [] });
  useEffect(() => {
    let last: (Metrics & { at: number }) | null = null;
    return poll(async () => {
      const next = { ...(await readMetrics()), at: performance.now() };
      if (last) {
        const { at, generated, read } = last;
        const perSecond = (n: number) => (n * 1000) / (next.at - at);
        setSpeeds(({ writing, reading }) => ({
          writing: added(writing, perSecond(next.generated - generated)),
          reading: added(reading, perSecond(next.read - read)),
        }));
      }
      setRequests(({ running, waiting }) => ({
        running: added(running, next.running),
        waiting: added(waiting, next.waiting),
      }));
      last = next;
    });
  }, []);
  const { running, waiting } = requests;
  return (
    <section>
      <h2>{t("speed")}</h2>
      <Chart lines={[speeds.writing]} label={speedLabel("speedNow", speeds.writing)} />
      <Chart lines={[speeds.reading]} label={speedLabel("readingNow", speeds.reading)} />
      <h2>{t("requests")}</h2>
      <Chart
        lines={[running, waiting]}
        label={t("requestsNow", { running: number(running.at(-1) ?? 0), waiting: number(waiting.at(-1) ?? 0) })}
      />
    </section>
  );
}

function speedLabel(key: "speedNow" | "readingNow", points: number[]): string {
  return t(key, { n: number(points.at(-1) ?? 0), max: number(Math.max(0, ...points)) });
}

// Lines on a common scale, and what they say in words.
function Chart({ lines, label, max }: { lines: number[][]; label: string; max?: number }) {
  const top = max ?? Math.max(1, ...lines.flat());
  const path = (points: number[]) =>
    points.map((value, i) => `${(i * 100) / (MAX_POINTS - 1)},${40 - (Math.min(value, top) / top) * 38}`).join(" ");
  return (
    <figure class="chart">
      <svg viewBox="0 0 100 41" preserveAspectRatio="none" role="img" aria-label={label}>
        {lines.map((points, i) => <polyline key={i} class={`line-${i}`} points={path(points)} />)}
      </svg>
      <figcaption class="muted">{label}</figcaption>
    </figure>
  );
}

const added = (points: number[], value: number): number[] => [...points, value].slice(-MAX_POINTS);

// Repeats an action while the page is visible; returns a function that ends this.
function poll(action: () => Promise<void>): () => void {
  const step = () => void (document.hidden || action().catch(() => {}));
  step();
  const timer = setInterval(step, INTERVAL);
  return () => clearInterval(timer);
}
