// An explanation in readable form: what is wanted and there, why something is missing, what next and when.

import { h } from "../dom.js";
import { lasting, now, number, ranks, usd } from "../format.js";
import { age, market as marketName, shownClock, table } from "../parts.js";

const MARKETS_SHOWN = 12;
const LOG_SHOWN = 40;
const TOLD_IN_STORY = 4; // groups of what is missing

/** Sentences; the first says how it is. */
export function story(lines) {
  return h("div", { class: "story" }, lines.map((line) => h("p", {}, line)));
}

function fold(title, open, ...children) {
  return h("details", open ? { open: true } : {}, h("summary", {}, title), ...children);
}

/** What `/v1/explain/{pool}` says. `open` are the titles of folds that are open. */
export function poolWhy(told) {
  return [
    story(told.story),
    told.missing_groups?.length > TOLD_IN_STORY
      ? fold(`All that is missing: ${number(told.missing_count)}`, false,
          table("What is missing", ["Nodes", "For", "Why", "Next"], told.missing_groups.map((group) =>
            [ranks(group.nodes), lasting(now() - group.since), group.why, age(group.next_at, "due")])))
      : null,
    told.next?.length
      ? h("div", {}, h("h3", {}, "What is next"),
          h("ol", { class: "next" }, told.next.map((one) => h("li", {}, h("span", { class: "num when" }, age(one.at, "due")), h("span", {}, one.what)))))
      : null,
    told.markets?.length
      ? fold(`Markets: ${number(told.markets_allowed)} allowed, ${number(told.markets_passed)} passed over`, false,
          table("Markets", ["Market", "Price", "Held", "Why"], told.markets.slice(0, MARKETS_SHOWN).map((market) =>
            [marketName(market.market), `${usd(market.usd_per_hour)}/h`, number(market.held), market.why || (market.allowed ? "allowed" : null)])),
          told.markets.length > MARKETS_SHOWN ? h("p", { class: "muted" }, `and ${number(told.markets.length - MARKETS_SHOWN)} more`) : null)
      : null,
    told.policy
      ? fold(`Policy: ${told.policy.name}`, false,
          h("p", { class: "muted" }, [told.policy.allocation && `allocation ${told.policy.allocation}`, told.scaling?.why].filter(Boolean).join(" · ")),
          h("pre", { tabindex: "0" }, JSON.stringify(told.policy.knobs, null, 2)))
      : null,
  ];
}

/** What is explained of one task or machine: its story, and its log. */
export function oneWhy(told) {
  const log = (told.log ?? []).slice(-LOG_SHOWN);
  return [
    story(told.story),
    told.next_at ? h("p", {}, "Next ", age(told.next_at, "due"), ".") : null,
    log.length
      ? h("ol", { class: "oplog" }, log.map((entry) => h("li", { class: `l-${entry.level}` }, shownClock(entry.at), " ", entry.message)))
      : null,
  ];
}
