// A control for one field of the request, chosen by its schema.

import { useEffect, useState } from "preact/hooks";
import type { Field, Schema } from "../server/description";
import { t } from "../strings";
import { IconButton } from "./controls";

interface Props {
  field: Field;
  value: unknown; // undefined: not changed
  onChange: (value: unknown) => void; // undefined: use the default
}

export function OptionField({ field, value, onChange }: Props) {
  const { name, schema, plugin } = field;
  const id = `option-${name}`;
  const isChanged = value !== undefined;
  const byDefault = schema.default === undefined || schema.default === null ? "" : written(schema.default);
  return (
    <div class={`option ${isChanged ? "changed" : ""}`}>
      <div class="option-name">
        <label for={id}>{name}</label>
        {plugin && <small>{t("fromPlugin", { name: plugin })}</small>}
        {isChanged && (
          <IconButton icon="reset" label={t("resetOptionTo", { name })} onClick={() => onChange(undefined)} />
        )}
      </div>
      <Control {...{ id, name, schema, value, onChange }} />
      <p id={`${id}-help`}>
        <Described text={schema.description?.trim() ?? ""} /> {byDefault && <span>{t("defaultValue", { value: byDefault })}</span>}
      </p>
    </div>
  );
}

// A text of the API document, in which names are between backticks.
function Described({ text }: { text: string }) {
  return <>{text.split("`").map((part, i) => (i % 2 ? <code key={i}>{part}</code> : part))}</>;
}

interface ControlProps {
  id: string;
  name: string;
  schema: Schema;
  value: unknown;
  onChange: (value: unknown) => void;
}

function Control(props: ControlProps) {
  const { schema } = props;
  const list = listIn(schema);
  if (schema.type === "boolean") return <Choice {...props} choices={[[true, t("on")], [false, t("off")]]} />;
  if (schema.enum) {
    return <Choice {...props} choices={schema.enum.filter((each) => each !== null).map((each) => [each, String(each)])} />;
  }
  if (schema.type === "number" || schema.type === "integer") return <NumberField {...props} />;
  if (list?.items?.enum) return <Order {...props} names={list.items.enum.map(String)} />;
  if (list?.items?.type === "string") return <Lines {...props} />;
  if (schema.type === "string") return <Text {...props} />;
  return <Json {...props} />;
}

// Returns the form of a field in which it is an array.
function listIn(schema: Schema): Schema | undefined {
  return [schema, ...(schema.anyOf ?? [])].find((each) => each.type === "array");
}

function Choice({ id, value, onChange, choices }: ControlProps & { choices: [unknown, string][] }) {
  const chosen = choices.findIndex(([choice]) => choice === value);
  return (
    <select
      id={id}
      aria-describedby={`${id}-help`}
      value={String(chosen)}
      onChange={(event) => onChange(choices[Number(event.currentTarget.value)]?.[0])}
    >
      <option value="-1">{t("serverDefault")}</option>
      {choices.map(([, label], i) => <option key={label} value={String(i)}>{label}</option>)}
    </select>
  );
}

const MAX_RANGE = 10; // of fields that have a slider

// The useful part of wide ranges.
const SLIDERS: Record<string, { min: number; max: number }> = {
  temperature: { min: 0, max: 2 },
  repeat_penalty: { min: 0.5, max: 2 },
  top_k: { min: 0, max: 200 },
};

function NumberField({ id, name, schema, value, onChange }: ControlProps) {
  const { minimum = -Infinity, maximum = Infinity, type } = schema;
  const step = type === "integer" ? 1 : "any";
  const limits = { min: schema.minimum, max: schema.maximum };
  const slider = SLIDERS[name] ?? (maximum - minimum <= MAX_RANGE ? limits : undefined);
  const current = (value ?? schema.default ?? minimum) as number;
  const set = (input: HTMLInputElement) => {
    if (input.value === "") onChange(undefined);
    else if (input.checkValidity()) onChange(input.valueAsNumber);
  };
  return (
    <div class="row">
      <input
        id={id}
        type="number"
        {...limits}
        step={step}
        aria-describedby={`${id}-help`}
        value={value === undefined ? "" : String(value)}
        placeholder={schema.default === undefined ? t("serverDefault") : written(schema.default)}
        onInput={(event) => set(event.currentTarget)}
      />
      {slider && (
        <input
          type="range"
          {...slider}
          step={type === "integer" ? 1 : 0.01}
          aria-label={name}
          value={current}
          onInput={(event) => set(event.currentTarget)}
        />
      )}
    </div>
  );
}

function Text({ id, schema, value, onChange }: ControlProps) {
  return (
    <textarea
      id={id}
      rows={1}
      aria-describedby={`${id}-help`}
      value={String(value ?? "")}
      placeholder={schema.default ? written(schema.default) : t("serverDefault")}
      onInput={(event) => onChange(event.currentTarget.value || undefined)}
    />
  );
}

// An array of strings, one per line.
function Lines({ id, schema, value, onChange }: ControlProps) {
  const lines = (list: unknown) => (Array.isArray(list) ? list.map((line) => String(line).replace(/\n/g, "\\n")) : []);
  const parse = (text: string) => text.split("\n").filter(Boolean).map((line) => line.replace(/\\n/g, "\n"));
  const [text, setText] = useOwnText(value, lines(value).join("\n"));
  return (
    <>
      <textarea
        id={id}
        rows={2}
        aria-describedby={`${id}-help`}
        value={text}
        placeholder={lines(schema.default).join("\n") || t("serverDefault")}
        onInput={(event) => {
          const typed = setText(event.currentTarget.value);
          onChange(typed ? parse(typed) : undefined);
        }}
      />
      <small>{t("oneLineEach")}</small>
    </>
  );
}

function Json({ id, schema, value, onChange }: ControlProps) {
  const [text, setText] = useOwnText(value, value === undefined ? "" : JSON.stringify(value, null, 2));
  const parsed = text.trim() ? parseJson(text) : undefined;
  return (
    <>
      <textarea
        id={id}
        class="code"
        rows={text ? Math.min(12, text.split("\n").length + 1) : 2}
        spellcheck={false}
        aria-describedby={`${id}-help`}
        aria-invalid={parsed === null}
        value={text}
        placeholder={schema.example === undefined ? "" : JSON.stringify(schema.example)}
        onInput={(event) => {
          const typed = setText(event.currentTarget.value);
          onChange(typed.trim() ? (parseJson(typed)?.value ?? undefined) : undefined);
        }}
      />
      {parsed === null && <small class="error" role="alert">{t("notJson")}</small>}
    </>
  );
}

function parseJson(text: string): { value: unknown } | null {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return null;
  }
}

// Keeps what the user types, as long as the value has not been changed elsewhere.
function useOwnText(value: unknown, written: string): [string, (text: string) => string] {
  const [own, setOwn] = useState<string | null>(null);
  const [lastValue, setLastValue] = useState(value);
  useEffect(() => {
    setLastValue(value);
    if (value === undefined && lastValue !== undefined && own?.trim() && isFinished(own)) setOwn(null); // was reset
  }, [value]);
  return [own ?? written, (text) => (setOwn(text), text)];
}

const isFinished = (text: string) => parseJson(text) !== null || !/^\s*[[{]/.test(text);

// An order of names.
function Order({ id, schema, value, onChange, names }: ControlProps & { names: string[] }) {
  const list = (Array.isArray(value) ? value : Array.isArray(schema.default) ? schema.default : []).map(String);
  const swap = (i: number, j: number) => onChange(list.map((name, k) => list[k === i ? j : k === j ? i : k] ?? name));
  return (
    <div class="order">
      <ol>
        {list.map((name, i) => (
          <li key={`${name}-${i}`}>
            <span class="spacer">{name}</span>
            <IconButton icon="up" label={t("moveUp", { name })} disabled={i === 0} onClick={() => swap(i, i - 1)} />
            <IconButton
              icon="down"
              label={t("moveDown", { name })}
              disabled={i === list.length - 1}
              onClick={() => swap(i, i + 1)}
            />
            <IconButton
              icon="close"
              label={t("removeItem", { name })}
              onClick={() => onChange(list.filter((_, k) => k !== i))}
            />
          </li>
        ))}
      </ol>
      <select
        id={id}
        aria-describedby={`${id}-help`}
        value=""
        onChange={(event) => onChange([...list, event.currentTarget.value])}
      >
        <option value="">{t("addItem")}</option>
        {names.map((name) => <option key={name} value={name}>{name}</option>)}
      </select>
    </div>
  );
}

function written(value: unknown): string {
  return typeof value === "string" ? value : Array.isArray(value) ? value.map((each) => JSON.stringify(each)).join(", ") : JSON.stringify(value);
}
