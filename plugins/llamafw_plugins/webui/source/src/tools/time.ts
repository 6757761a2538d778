// A tool that tells the time.

import { t } from "../strings";
import type { Tool } from "./index";

export const clock: Tool = {
  name: "get_current_time",
  get title() {
    return t("toolTime");
  },
  description: "Get the current date, time and time zone.",
  parameters: {
    type: "object",
    properties: {
      timezone: { type: "string", description: "A time zone such as Europe/Berlin. Default: the user's." },
    },
  },
  run: ({ timezone }) => {
    const timeZone = typeof timezone === "string" && timezone ? timezone : undefined;
    const format = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long", timeZone });
    return `${format.format(new Date())} (${format.resolvedOptions().timeZone})`;
  },
};
