// The scales of LoRA adapters, for the open conversation only.

import { useEffect, useState } from "preact/hooks";
import { readAdapters, type Adapter } from "../server/info";
import { t } from "../strings";
import { IconButton } from "./controls";

const SLIDER = { min: 0, max: 2, step: 0.05 };

interface Scale {
  id: number;
  scale: number;
}

interface Props {
  value: unknown; // of the request field `lora`; undefined: the server's scales
  onChange: (value: Scale[] | undefined) => void;
}

export function Adapters({ value, onChange }: Props) {
  const [adapters, setAdapters] = useState<Adapter[]>([]);
  useEffect(() => void readAdapters().then(setAdapters, () => {}), []); // without adapters, there is nothing to choose
  if (!adapters.length) return null;
  const chosen = Array.isArray(value) ? (value as Scale[]) : null;
  const scaleOf = ({ id, scale }: Adapter) => (chosen ? (chosen.find((each) => each.id === id)?.scale ?? 0) : scale);
  const set = (id: number, scale: number) =>
    onChange(adapters.map((each) => ({ id: each.id, scale: each.id === id ? scale : scaleOf(each) })));
  return (
    <details class="group" open>
      <summary>
        <span class="spacer">{t("groupAdapters")}</span>
      </summary>
      {adapters.map((adapter) => (
        <AdapterField key={adapter.id} adapter={adapter} scale={scaleOf(adapter)} onChange={(scale) => set(adapter.id, scale)} />
      ))}
      <p class="muted row">
        <span class="spacer">{t("adaptersHint")}</span>
        {chosen && (
          <IconButton icon="reset" label={t("resetOptionTo", { name: "lora" })} onClick={() => onChange(undefined)} />
        )}
      </p>
    </details>
  );
}

function AdapterField({ adapter, scale, onChange }: { adapter: Adapter; scale: number; onChange: (scale: number) => void }) {
  const id = `adapter-${adapter.id}`;
  const name = adapter.path.split(/[\\/]/).at(-1) ?? adapter.path;
  const set = (input: HTMLInputElement) => {
    if (input.value !== "" && input.checkValidity()) onChange(input.valueAsNumber);
  };
  return (
    <div class="option">
      <div class="option-name">
        <label for={id}>{name}</label>
      </div>
      <div class="row">
        <input
          id={id}
          type="number"
          min={-1000}
          max={1000}
          step="any"
          value={scale}
          onInput={(event) => set(event.currentTarget)}
        />
        <input
          type="range"
          {...SLIDER}
          aria-label={t("adapterScale", { name })}
          value={scale}
          onInput={(event) => set(event.currentTarget)}
        />
      </div>
      {adapter.task_name && <p>{adapter.task_name}</p>}
    </div>
  );
}
