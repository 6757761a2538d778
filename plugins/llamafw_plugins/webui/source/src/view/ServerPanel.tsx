// What the server says about itself: its model, slots and speed.

import { useEffect } from "preact/hooks";
import { models, props, readServer } from "../state/server";
import { useStore } from "../state/store";
import { number, t } from "../strings";
import { MetricCharts, SlotCharts } from "./Charts";
import { Notice } from "./Notices";

export function ServerPanel() {
  const all = useStore(props);
  const model = useStore(models)[0];
  useEffect(() => void readServer(), []);
  if (!all) {
    return (
      <Notice isError text={t("serverFailed")}>
        <button type="button" onClick={() => void readServer()}>{t("tryAgain")}</button>
      </Notice>
    );
  }
  const { n_ctx } = all.default_generation_settings;
  const trained = model?.meta?.n_ctx_train;
  const facts: [string, string | undefined][] = [
    [t("model"), all.model_alias],
    [t("modelParameters"), model?.meta?.n_params && number(model.meta.n_params / 1e6, 1) + " M"] as [string, string],
    [t("modelType"), all.model_ftype],
    [t("contextSize"), `${t("tokenCount", { n: number(n_ctx) })}${trained ? `, ${t("contextTrained", { n: number(trained) })}` : ""}`],
    [t("modelFile"), all.model_path],
    [t("serverVersion"), all.build_info],
  ];
  return (
    <>
      <dl class="facts">
        {facts.map(([name, value]) => value && <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
      </dl>
      {all.endpoint_slots && <SlotCharts />}
      {all.endpoint_metrics && <MetricCharts />}
      <details>
        <summary>{t("chatTemplate")}</summary>
        <pre class="template" tabIndex={0} role="region" aria-label={t("chatTemplate")}>{all.chat_template}</pre>
      </details>
      <p><a href="docs" target="_blank" rel="noopener">{t("apiDocs")}</a></p>
    </>
  );
}
