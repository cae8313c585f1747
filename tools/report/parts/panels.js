// Everything around the replay: what happened in words, the inputs that failed, checks, keys, comparison, cost, host.

const STATES = {
  committed: ["good", "✓", "Committed"], failed: ["bad", "✕", "Failed"], abandoned: ["warn", "⚡", "Abandoned"], died: ["warn", "⚡", "Died"],
  refused: ["warn", "⊘", "Refused"], planned: ["", "◌", "Planned"], denied: ["warn", "⊘", "Never began"], open: ["", "◌", "Under way"],
};
const SIGNS = { error: ["✕", "Error"], warning: ["▲", "Warning"], note: ["i", "Note"] };
const PICTURES = ["image/png", "image/jpeg", "image/webp"];

function drawHeadline(told) {
  const [kind, sign, word] = STATES[told.status] || ["", "?", told.status], failure = told.failure;
  const cause = failure && failure.cause, summary = told.summary || "", title = cause && summary.endsWith(`: ${cause}`) ? summary.slice(0, -cause.length - 2) : summary;
  const made = told.plan ? "Plan" : told.build === null ? "A run that never became a build" : `Build ${told.build}`;
  document.title = told.plan ? `${made}: ${told.flight_id} – C10 flight recorder` : `${made}: ${word} – C10 flight recorder`;
  const shows = list(told.generations);
  byId("headline").replaceChildren(
    el("p", { class: "eyebrow" }, el("span", { class: `badge ${kind}` }, el("span", { "aria-hidden": "true" }, sign), word),
      el("span", {}, [told.flight_id ? `flight ${said(told.flight_id)}` : null, told.sector ? said(told.sector).replaceAll("_", " ") : null].filter(Boolean).join(" · ") || made),
      el("span", {}, told.plan ? `before the build, on ${told.plan.as_of}` : when(told.started && told.started.time)),
      told.at ? tag(`as of record ${told.at}`, "warn") : "", told.collected ? tag("collected: its files are gone", "warn") : "",
      shows.length ? tag(`generation ${shows.join(", ")}`) : "", list(told.accepted).length ? tag("accepted", "good") : ""),
    el("h1", {}, capital(failure && failure.subject ? title.replace(failure.subject, () => few(failure.subject)) : title).replace(/(\d) (ms|s|min|h)\b/g, "$1\u00a0$2")),
    cause && cause !== failure.message ? el("p", { class: "cause" }, `${capital(cause)}.`) : "",
    failure ? el("div", { class: "verdict" },
      el("div", {}, el("h3", {}, `Said at ${stepName({ kind: failure.step, subject: failure.subject })}`), el("p", {}, failure.message || failure.kind)),
      el("div", { class: "mend" }, el("h3", {}, "What mends it"), el("p", {}, failure.hint || "Nothing was recorded that would."))) : "",
    told.plan ? planned(told) : readiness(told),
    figures(told),
  );
}

/** What speaks against flying with a committed build, on the day when the page was made. */
function readiness(told) {
  const warnings = list((told.readiness || {}).warnings);
  if (!told.readiness) return "";
  return el("div", { id: "readiness" }, warnings.length ? "" : el("p", {}, "Nothing in the records speaks against a flight."),
    warnings.map((each) => el("div", { class: "finding warning" }, el("span", { class: "sign", role: "img", "aria-label": "Warning" }, SIGNS.warning[0]),
      el("div", {}, el("p", {}, `${capital(each.message)}.`), each.hint ? el("p", {}, `→ ${each.hint}`) : ""))));
}

/** What a plan warns of, or why a build would be refused. */
function planned({ plan }) {
  const error = plan.error, box = (sign, { message, hint }) => el("div", { class: `finding ${sign}` }, el("span", { class: "sign", role: "img", "aria-label": SIGNS[sign][1] }, SIGNS[sign][0]),
    el("div", {}, el("p", {}, `${capital(message)}.`), hint ? el("p", {}, `→ ${hint}`) : ""));
  return el("div", { id: "readiness" }, error ? box("error", error) : "", list(plan.warnings).map((each) => box("warning", each)));
}

function planPanel({ plan }) {
  if (!plan || !plan.steps) return null;
  const steps = plan.steps.map((each) => [stepName(each), count(each.count), each.decision, each.why]);
  const times = list(plan.time).map((each) => [stepName({ kind: each.step, subject: each.subject }), each.about || DASH, each.basis || each.why]);
  const levels = list(plan.levels).map((each) => [each.level, `${each.side_m.toFixed(0)} m`, `${(100 * each.overlap).toFixed(0)} %`, each.zoom, count(each.chunks)]);
  return panel("plan", "Plan", null,
    table(["Step", ">Count", "Decision", "Why"], steps),
    times.length ? [el("h3", {}, "Time"), table(["Step", "Takes", "Known from"], times)] : "",
    levels.length ? [el("h3", {}, "Chunks"), table([">Level", ">Side", ">Overlap", ">Zoom", ">Chunks"], levels)] : "");
}

function figures(told) {
  const cost = told.cost || {}, area = told.area || {};
  const pairs = told.plan ? [["Takes", told.plan.takes || DASH, null]] : [["Took", duration(told.ms), told.ended ? null : "has no end on record"]];
  if (typeof area.present === "number") pairs.push(["Tiles", count(area.present), typeof area.wanted === "number" && area.wanted !== area.present ? `of ${count(area.wanted)} wanted` : "all that were wanted"]);
  if (typeof cost.embedded === "number" && list(told.steps).length) pairs.push(["Embedded", count(cost.embedded), `${cost.unit || "tile"}s, by the network`]);
  if (typeof cost.reuse_ppm === "number") pairs.push(["Reused", share(cost.reuse_ppm), typeof cost.reused_tiles === "number" ? plural(cost.reused_tiles, cost.unit || "tile") : `all ${cost.unit || "tile"}s`]);
  if (typeof cost.bytes === "number" && list(told.steps).length) pairs.push(["Stored", bytes(cost.bytes), "by its steps"]);
  if (list(area.zoom).length) pairs.push(["Zoom", area.zoom[0] === area.zoom[1] ? String(area.zoom[0]) : `${area.zoom[0]}–${area.zoom[1]}`, `${plural(list(area.cells).length, "cell")}`]);
  if (told.identity) pairs.push(["Identity", code(short(told.identity), told.identity), null]);
  return el("dl", { class: "figures" }, pairs.map(([label, value, more]) => el("div", {}, el("dt", {}, label), el("dd", {}, value, more ? el("small", {}, more) : ""))));
}

const panel = (id, title, note, ...content) => el("section", { class: "card panel", id }, el("h2", {}, title, note ? el("small", {}, note) : ""), ...content);

function findingsPanel(told, replay) {
  const found = list(told.findings);
  if (!found.length) return null;
  const rows = found.slice(0, LISTED).map((each) => {
    const [sign, word] = SIGNS[each.severity] || ["?", each.severity];
    return el("div", { class: `finding ${each.severity}` }, el("span", { class: "sign", role: "img", "aria-label": word }, sign),
      el("div", {}, el("p", {}, capital(each.text)), each.mend ? el("p", {}, `→ ${each.mend}`) : ""),
      each.seq ? el("button", { type: "button", on: { click: () => replay.goTo(each.seq) } }, `record ${count(each.seq)}`) : "");
  });
  return panel("findings", "Findings", "what stands out in the records", rows);
}

/** A picture, or the first bytes of what is none. */
function picture(each) {
  const raw = typeof each.data === "string" && /^[A-Za-z0-9+/]*={0,2}$/.test(each.data) ? each.data : null;
  const dump = () => el("pre", { "aria-label": "its first bytes" }, raw === null ? "not kept" : hexadecimal(raw));
  const frame = el("div", { class: "frame" }), note = el("span", {});
  if (raw !== null && PICTURES.includes(each.media)) {
    const image = el("img", { alt: `tile ${each.tile}`, src: `data:${each.media};base64,${raw}`, on: { error: () => { frame.replaceChildren(dump()); note.textContent = ", cannot be shown: its first bytes"; }, load: () => { note.textContent = `, ${image.naturalWidth} × ${image.naturalHeight} pixels`; } } });
    frame.append(image);
  } else frame.append(dump());
  const media = PICTURES.includes(each.media) ? each.media.slice(6).toUpperCase() : "no picture";
  return el("figure", {}, frame, el("figcaption", {}, el("b", {}, `tile ${each.tile}`), el("span", { class: "soft" }, `${bytes(each.size)}, ${media}`, note, raw === null ? ", bytes not here" : "")));
}

function hexadecimal(base64) {
  const text = atob(base64.slice(0, 400)), lines = [];
  for (let at = 0; at < Math.min(text.length, 128); at += 8) {
    const part = [...text.slice(at, at + 8)];
    lines.push(`${part.map((letter) => letter.charCodeAt(0).toString(16).padStart(2, "0")).join(" ").padEnd(24)}${part.map((letter) => (/[ -~]/.test(letter) ? letter : "·")).join("")}`);
  }
  return lines.join("\n");
}

function inputsPanel(told) {
  const failure = told.failure;
  if (!failure) return null;
  const pictures = list(failure.pictures).map(picture), inputs = list(failure.inputs), recorded = Object.entries(failure.recorded || {});
  const here = (each) => (each.present === null || each.present === undefined ? DASH : each.present ? tag("here", "good") : tag("not here", "warn"));
  const differs = (each) => (each.found === null || each.found === undefined ? DASH : el("span", { title: said(each.found) }, sideOf("found", each.found)));
  const rows = inputs.map((each) => [each.role, each.name, each.sha256 ? code(short(each.sha256), each.sha256) : DASH, bytes(each.size), differs(each), here(each)]);
  const trace = list(failure.traceback);
  return panel("inputs", "What the failing step was given", stepName({ kind: failure.step, subject: failure.subject }),
    pictures.length ? el("div", { class: "gallery" }, pictures) : "",
    rows.length ? table(["Input", "Name", "SHA-256", ">Size", "Found instead", "Bytes"], rows) : el("p", { class: "soft" }, "No inputs are on record."),
    recorded.length ? el("details", {}, el("summary", {}, "Recorded with the failure"), facts([...leaves(failure.recorded)].map(([path, value]) => [path, said(value)]))) : "",
    trace.length ? el("details", {}, el("summary", {}, `Traceback, ${plural(trace.length, "line")}`), el("pre", { class: "text" }, trace.join("\n"))) : "");
}

function checksPanel(told, replay) {
  const checks = list(told.checks);
  if (!checks.length) return null;
  const rows = checks.map((each) => [
    each.passed ? tag("✓ passed", "good") : tag("✕ failed", "bad"), [each.check, each.subject].filter((word, place) => word && !(place && word === each.check)).join(" · "),
    [each.why ? el("p", {}, each.why) : "", Object.entries(each.measured || {}).filter(([, value]) => !Array.isArray(value)).map(([name, value]) => measured(name, value).join(" ")).join(", ")],
    el("button", { type: "button", class: "goto", on: { click: () => replay.goTo(each.seq) } }, `record ${count(each.seq)}`),
  ]);
  return panel("checks", "Checks", `${checks.filter((each) => each.passed).length} of ${checks.length} passed`, table(["", "Check", "Measured", ""], rows));
}

/** A component that changed, and its two values, without the unit in which they are recorded. */
function changeRow(each) {
  const unit = [each.old, each.new].some((value) => typeof value === "number");
  const [was, is] = [each.old, each.new].map((value) => (unit && typeof value === "number" ? measured(each.path, value)[1] : value));
  return [named(unit ? each.path.replace(/_(ppb|ppm|mm|ms)$/, "") : each.path), sideOf("old", was), sideOf("new", is)];
}

function keysPanel(told) {
  const keys = list(told.keys);
  if (!keys.length) return null;
  const rows = keys.slice(0, LISTED).map((each) => {
    const changed = list(each.changed), back = each.before && each.since < each.before.build;
    const state = back ? tag(`as in build ${each.since} again, unlike build ${each.before.build}`, "warn") : !each.before ? tag("first of its kind") : each.since === told.build ? tag(`changed since build ${each.before.build}`, "warn") : tag(`same since build ${each.since}`, "good");
    const name = { cells: "Vector space", build: "Build identity", index: "Index" }[each.kind] || stepName(each);
    return el("div", { class: "key-row" }, el("p", {}, el("b", {}, name), code(short(each.key), each.key), each.before || each.since === told.build ? state : tag(`same since build ${each.since}`, "good")),
      changed.length ? table(["Component", `Build ${each.before.build}`, `Build ${back ? told.build : each.since}`], changed.map(changeRow)) : "",
      el("details", { class: "deep" }, el("summary", {}, "All components"), facts([...leaves(each.components)].map(([path, value]) => [path, said(value)]))));
  });
  return panel("keys", "Keys", "what each step depends on, and what changed", rows);
}

function comparePanel(told) {
  const compare = told.compare;
  if (!compare) return null;
  const { a, b } = compare, refused = [a, b].some((side) => side.status === "refused"), tiles = compare.tiles || {}, changes = (title, rows) => (list(rows).length ? [el("h3", {}, title), table(["What", `Build ${a.build}`, `Build ${b.build}`], rows.map(changeRow))] : []);
  const artifacts = list(compare.artifacts), differing = artifacts.filter((each) => each.a && each.b && !each.same), alone = artifacts.filter((each) => !each.a || !each.b), same = artifacts.length - differing.length - alone.length;
  const sets = ["added", "removed", "changed", "same"].filter((name) => typeof tiles[name] === "number").map((name) => `${count(tiles[name])} ${name}`);
  const verdict = (each) => (each ? (each.passed ? tag("✓ passed", "good") : tag("✕ failed", "bad")) : DASH);
  const moved = list(compare.checks).filter((each) => !each.a || !each.b || each.a.passed !== each.b.passed);
  const longest = Math.max(1, ...list(compare.steps).flatMap((each) => [each.a_ms || 0, each.b_ms || 0]));
  const timed = (ms, outcome) => (outcome ? held(outcome, ms, longest, `${duration(ms)}${outcome === "done" ? "" : `, ${(OUTCOMES[outcome] || [0, outcome])[1]}`}`) : DASH);
  const content = [
    facts([["Inputs", list(compare.inputs).length ? `${plural(compare.inputs.length, "component")} changed` : compare.same_identity ? "the same" : refused ? "not recorded" : a.identity && b.identity ? "the same" : "not read to their end, so that it is not known what changed"], ["Machine", list(compare.host).length ? `${plural(compare.host.length, "fact")} changed` : refused ? "not recorded" : "the same"], ["Tiles", sets.join(", ")], ["Artifacts", `${count(same)} the same, ${count(differing.length)} not${alone.length ? `, ${count(alone.length)} in one of the builds only` : ""}`]]),
    ...changes("Inputs that changed", compare.inputs), ...changes("Machine facts that changed", compare.host),
    el("h3", {}, "Time by step"), table(["Step", `Build ${a.build}`, `Build ${b.build}`], list(compare.steps).map((each) => [stepName(each), timed(each.a_ms, each.a_outcome), timed(each.b_ms, each.b_outcome)])),
    ...(moved.length ? [el("h3", {}, "Checks that differ"), table(["Check", `Build ${a.build}`, `Build ${b.build}`], moved.map((each) => [[each.check, each.subject].filter((word, place) => word && !(place && word === each.check)).join(" · "), verdict(each.a), verdict(each.b)]))] : []),
    ...(differing.length + alone.length ? [el("details", {}, el("summary", {}, `${plural(differing.length + alone.length, "artifact")} that differ, or that one of the builds has`), table(["Artifact", `Build ${a.build}`, ">Size", `Build ${b.build}`, ">Size"], [...differing, ...alone].map((each) => [each.role, code(short(each.a), each.a), bytes(each.a_bytes), code(short(each.b), each.b), bytes(each.b_bytes)])))] : []),
  ];
  return panel("compare", `Against build ${a.build}`, `the last good one, of ${when(a.time)}${compare.same_identity ? ", the very same identity" : ""}`, ...content);
}

function costPanel(told) {
  const cost = told.cost || {}, steps = list(cost.steps);
  if (!steps.length) return null;
  const most = (name) => Math.max(1, ...steps.map((each) => each[name] || 0)), sum = (name) => steps.reduce((whole, each) => whole + (each[name] || 0), 0);
  const kind = (each) => (each.reused ? "reused" : "");
  const rows = steps.slice(0, LISTED - 2).map((each) => [stepName(each), held(kind(each), each.ms, most("ms"), duration(each.ms)), each.bytes ? held(kind(each), each.bytes, most("bytes"), bytes(each.bytes)) : DASH]);
  const between = (cost.ms || 0) - sum("ms");
  if (between > 0) rows.push(["Between steps", held("", between, most("ms"), duration(between)), DASH]);
  rows.push([el("b", {}, "The build"), el("b", {}, duration(Math.max(cost.ms || 0, sum("ms")))), el("b", {}, bytes(sum("bytes")))]);
  const reuse = typeof cost.reuse_ppm === "number" ? `${share(cost.reuse_ppm)} of the ${cost.unit || "tile"}s needed no network` : null;
  return panel("cost", "Cost", reuse, table(["Step", "Time", "Stored"], rows));
}

function hostPanel(told) {
  const pairs = [...leaves(told.host || {})].filter(([path]) => path).map(([path, value]) => [path, said(value)]), request = list(told.request);
  if (!pairs.length && !request.length) return null;
  return panel("host", "Machine", "as the build found it", pairs.length ? facts(pairs) : el("p", { class: "soft" }, "Nothing is on record."), request.length ? el("details", {}, el("summary", {}, "The request, as it was read"), el("pre", { class: "text" }, request.join("\n"))) : "");
}

function recordsPanel(told, replay) {
  const box = el("div", { class: "records", tabindex: 0, role: "listbox", "aria-label": "Records" }), field = el("input", { type: "search", placeholder: "Find in records", "aria-label": "Find in records" }), note = el("span", { class: "soft" });
  const made = panel("records", "Records", told.timeline_cut ? `${count(told.timeline_cut)} in the middle are left out` : null, el("div", { class: "find" }, field, note), box, el("div", { class: "onpaper" }));
  replay.records = new Records(replay, box, field, note);
  return made;
}

function cachePanel(told) {
  if (!told.state) return null;
  const state = told.state, source = told.source || {}, verified = list(told.verified);
  return panel("cache", "The cache", told.at ? `after record ${told.at}` : "after the last record",
    facts([["Read from", `${source.kind} ${source.path}`], ["Cache id", code(said(source.cache_id))], ["Shows", state.generation === null ? "nothing yet" : `generation ${state.generation}, build ${state.origin}`],
      ["Open build", state.open_build === null ? null : `${state.open_build}${state.doing ? `: ${state.doing}` : ""}`], ["Builds", count(state.builds)], ["Known results", [[state.engines, "engine"], [state.blocks, "block"]].map(([value, word]) => plural(value, word)).concat(plural(state.indexes, "index", "indexes")).join(", ")],
      ["Accepted", list(state.accepted).join(", ")], ["Not understood", list(state.unknown).join(", ")], ["Problem", state.problem || source.problem], ["Head", code(short(state.chain), state.chain)]]),
    verified.length ? [el("h3", {}, "Generations projected again from the records"), table(["Generation", ">Record", "Body", ""], verified.map((each) => [each.generation, count(each.seq), code(short(each.body_sha256), each.body_sha256), each.projects ? tag("✓ the very bytes", "good") : tag("✕ other bytes", "bad")]))] : "");
}

function drawPanels(told, replay) {
  const pair = (left, right) => (left && right ? el("div", { class: "pair" }, left, right) : left || right);
  const made = [planPanel(told), findingsPanel(told, replay), proofPanel(told, replay), inputsPanel(told), checksPanel(told, replay), told.plan ? null : recordsPanel(told, replay), comparePanel(told), keysPanel(told), pair(costPanel(told), hostPanel(told)), cachePanel(told)];
  byId("panels").replaceChildren(...made.filter(Boolean));
  const names = [["replay", told.plan ? "Map" : "Replay"], ["plan", "Plan"], ["findings", "Findings", list(told.findings).length], ["proof", "Photographs", told.proof && told.proof.pictures], ["inputs", "Inputs"], ["checks", "Checks", list(told.checks).length], ["records", "Records"], ["compare", "Compare"], ["keys", "Keys"], ["cost", "Cost"], ["host", "Machine"], ["cache", "Cache"]];
  byId("contents").replaceChildren(...names.filter(([id]) => byId(id)).map(([id, name, number]) => el("a", { href: `#${id}` }, name, number ? el("sup", {}, String(number)) : "")));
  const source = told.source || {};
  if (told.plan) byId("footer").replaceChildren("Drawn from the request and its imagery, before any build. This page holds all of its data and asks for nothing from any network.");
  else byId("footer").replaceChildren(`Drawn from ${count(source.records)} records of the ${source.kind} ${source.path}, up to record ${count(source.seq)}, chain ${short(source.chain)}. This page holds all of its data and asks for nothing from any network.`, el("span", { class: "onpaper" }, "Two pages of paper have room for a part of it only."));
}
