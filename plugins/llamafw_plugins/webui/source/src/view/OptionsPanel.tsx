// Every field of a chat request, as the server's API document describes it.

import { useEffect, useState } from "preact/hooks";
import { readFields, type FieldGroup } from "../server/description";
import { changeSettings } from "../state/actions";
import { opened } from "../state/app";
import { props } from "../state/server";
import { useSelected, useStore } from "../state/store";
import { t } from "../strings";
import { Adapters } from "./Adapters";
import { Notice } from "./Notices";
import { SearchField } from "./controls";
import { OptionField } from "./OptionField";

export function OptionsPanel() {
  const options = useSelected(opened, ({ conversation }) => conversation.options);
  const defaults = useStore(props)?.default_generation_settings ?? {};
  const [groups, setGroups] = useState<FieldGroup[] | null>([]);
  const [filter, setFilter] = useState("");
  const read = () => void readFields().then(setGroups, () => setGroups(null));
  useEffect(read, []);

  if (!groups) {
    return (
      <Notice isError text={t("optionsFailed")}>
        <button type="button" onClick={read}>{t("tryAgain")}</button>
      </Notice>
    );
  }
  const set = (name: string, value: unknown) => {
    const { [name]: _, ...others } = opened.value.conversation.options;
    void changeSettings({ options: value === undefined ? others : { ...others, [name]: value } });
  };
  const n = Object.keys(options).filter((name) => name !== "model").length;
  return (
    <>
      <div class="row">
        <SearchField class="spacer" label={t("filterOptions")} value={filter} onChange={setFilter} />
        <button type="button" disabled={n === 0} onClick={() => void changeSettings({ options: keepModel(options) })}>
          {t("resetAll")}
        </button>
      </div>
      <Adapters value={options.lora} onChange={(value) => set("lora", value)} />
      <p class="muted" role="status">{n > 0 && t("changedOptions", { n })}</p>
      {groups.map((group) => (
        <Group
          key={group.name}
          group={withDefaults(filtered(group, filter), defaults)}
          {...{ options, set, isFound: filter !== "" }}
        />
      ))}
    </>
  );
}

interface GroupProps {
  group: FieldGroup;
  options: Record<string, unknown>;
  set: (name: string, value: unknown) => void;
  isFound: boolean;
}

function Group({ group, options, set, isFound }: GroupProps) {
  if (!group.fields.length) return null;
  const n = group.fields.filter(({ name }) => options[name] !== undefined).length;
  return (
    <details class="group" open={isFound || group.name === "frequent"}>
      <summary>
        <span class="spacer">{titleOf(group)}</span>
        {n > 0 && <small>{t("changedOptions", { n })}</small>}
      </summary>
      {group.fields.map((field) => (
        <OptionField key={field.name} field={field} value={options[field.name]} onChange={(value) => set(field.name, value)} />
      ))}
    </details>
  );
}

const TITLES = {
  frequent: "groupFrequent",
  tokens: "groupTokens",
  structure: "groupStructure",
  reasoning: "groupReasoning",
  limits: "groupLimits",
} as const;

function titleOf({ name, kind }: FieldGroup): string {
  if (kind === "plugin") return t("fromPlugin", { name });
  return kind === "sampler" ? name : t(TITLES[name as keyof typeof TITLES]);
}

function filtered(group: FieldGroup, filter: string): FieldGroup {
  const words = filter.toLowerCase().split(/\s+/);
  const matches = (text: string) => words.every((word) => text.toLowerCase().includes(word));
  return { ...group, fields: group.fields.filter(({ name, schema }) => matches(`${name} ${schema.description} ${group.name}`)) };
}

// Adds the defaults that the document lacks, because the server chooses them.
function withDefaults(group: FieldGroup, defaults: Record<string, unknown>): FieldGroup {
  const fields = group.fields.map((field) => {
    const { schema, name } = field;
    return schema.default === undefined && name in defaults
      ? { ...field, schema: { ...schema, default: defaults[name] } }
      : field;
  });
  return { ...group, fields };
}

function keepModel({ model }: Record<string, unknown>): Record<string, unknown> {
  return model === undefined ? {} : { model };
}
