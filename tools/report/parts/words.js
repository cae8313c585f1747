// Elements, numbers and times. What was recorded only ever becomes a text node or the value of a harmless attribute.

const DASH = "–";
const LISTED = 500;

/** A new element. Attributes by name, `on` for listeners; children are nodes, or texts that stay texts. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, heard] of Object.entries(value)) made.addEventListener(event, heard);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const byId = (id) => document.getElementById(id);
const list = (value) => (Array.isArray(value) ? value : []);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const count = (value) => (typeof value === "number" ? value.toLocaleString("en-GB") : DASH);
const plural = (value, one, many = one + "s") => `${count(value)} ${value === 1 ? one : many}`;
const short = (digest) => (typeof digest === "string" && digest ? digest.slice(0, 12) : DASH);

/** A length of time, from milliseconds. */
function duration(ms) {
  if (typeof ms !== "number") return DASH;
  const way = ms < 0 ? "−" : "", s = Math.abs(ms) / 1000;
  if (s < 1) return `${way}${Math.round(s * 1000)} ms`;
  if (s < 120) return `${way}${s.toFixed(s < 10 ? 2 : 1)} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 120) return `${way}${minutes} min ${String(Math.floor(s % 60)).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 72 ? `${way}${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${way}${Math.floor(hours / 24)} days`;
}

/** A moment of the build, from milliseconds since its start: 0:01.234 */
function clock(ms) {
  const whole = Math.abs(Math.round(ms || 0)), two = (value) => String(value).padStart(2, "0");
  const s = Math.floor(whole / 1000), h = Math.floor(s / 3600);
  const minutes = h ? `${h}:${two(Math.floor(s / 60) % 60)}` : String(Math.floor(s / 60));
  return `${ms < 0 ? "−" : ""}${minutes}:${two(s % 60)}.${String(whole % 1000).padStart(3, "0")}`;
}

/** A number of bytes in a unit that suits it. */
function bytes(value) {
  if (typeof value !== "number") return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 ** (power + 1) && power < units.length - 1) power += 1;
  return power ? `${(value / 1024 ** power).toFixed(1)} ${units[power]}` : `${value} B`;
}

/** A part of a million as a percentage; what is not all never reads 100 %, and what is not nothing never 0 %. */
function share(ppm) {
  if (typeof ppm !== "number") return DASH;
  if (ppm > 0 && ppm < 1e3) return "< 0.1 %";
  if (ppm > 99e4 && ppm < 1e6) return `${(Math.floor(ppm / 1e3) / 10).toFixed(1)} %`;
  return `${(ppm / 1e4).toFixed(ppm && ppm < 1e5 ? 1 : 0)} %`;
}

/** UTC as people write it, from ISO 8601. */
function when(iso) {
  const found = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)/.exec(iso || "");
  return found ? `${found[1]} ${found[2]} UTC` : iso || DASH;
}

/** Anything that JSON can hold, in one line. */
function said(value) {
  if (value === null || value === undefined || value === "") return DASH;
  if (typeof value === "string") return value;
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
  if (Array.isArray(value) && value.length > 8) return `${count(value.length)} members: ${value.slice(0, 3).map(said).join(", ")}, …`;
  const flat = !Array.isArray(value) && typeof value === "object" && Object.values(value).every((each) => each === null || typeof each !== "object");
  const text = flat ? Object.entries(value).map(([name, each]) => `${name} ${said(each)}`).join(", ") || "{}" : JSON.stringify(value);
  return text.length > 440 ? `${text.slice(0, 400)}… (${count(text.length - 400)} more characters)` : text;
}

/** Yield [dotted path, value] of everything in a document. */
function* leaves(value, path = "") {
  if (value !== null && typeof value === "object" && Object.keys(value).length && !(Array.isArray(value) && value.every((each) => each === null || typeof each !== "object"))) {
    for (const [name, inner] of Object.entries(value)) yield* leaves(inner, path ? `${path}.${name}` : name);
  } else yield [path, value];
}

const STEP_NAMES = {
  plan: "Plan", engine: "Engine", "stand-in": "Stand-in engine", check: "Check", cells: "Embed cells", index: "Build index",
  coverage: "Coverage walk", commit: "Commit", lock: "Build lock", start: "Start", tiles: "Select tiles", inputs: "Read inputs", packs: "Pack tiles",
  proof: "Prove", compile: "Compile", embed: "Embed", carry: "Pack tiles",
};
const OUTCOMES = { done: ["✓", "done"], reused: ["↺", "reused"], failed: ["✕", "failed"], cut: ["⚡", "cut short"] };

/** A list of names, cut to its first few. */
function few(names) {
  const found = String(names || "").split(", ");
  return found.length > 3 ? `${found.slice(0, 2).join(", ")} and ${found.length - 2} more` : found.join(", ");
}

const stepName = (step) => [STEP_NAMES[step.kind] || step.kind, few(step.subject)].filter(Boolean).join(" · ");

/** What a name of a check measured, with its unit told apart: [label, text]. */
function measured(name, value) {
  if (typeof value === "number" && name.endsWith("_ppb")) return [name.slice(0, -4).replaceAll("_", " "), (value / 1e9).toFixed(9).replace(/0{1,3}$/, "")];
  if (typeof value === "number" && name.endsWith("_ppm")) return [name.slice(0, -4).replaceAll("_", " "), (value / 1e6).toFixed(6).replace(/0{1,2}$/, "")];
  if (typeof value === "number" && name.endsWith("_mm")) return [name.slice(0, -3).replaceAll("_", " "), `${value / 1000} m`];
  if (typeof value === "number" && name.endsWith("_ms")) return [name.slice(0, -3).replaceAll("_", " "), duration(value)];
  return [name.replaceAll("_", " "), said(value)];
}

/** A table from titles (a leading ">" sets numbers flush right) and rows of cells; long ones say how long they are. */
function table(titles, rows, most = LISTED) {
  const right = titles.map((title) => title.startsWith(">"));
  const head = el("tr", {}, titles.map((title, place) => el("th", { scope: "col", class: right[place] ? "num" : null }, title.replace(/^>/, ""))));
  const body = rows.slice(0, most).map((row) => el("tr", {}, row.map((cell, place) => el("td", { class: right[place] ? "num" : null, "data-label": titles[place].replace(/^>/, "") || null }, cell))));
  const more = rows.length - most;
  if (more > 0) body.push(el("tr", {}, el("td", { colspan: titles.length, class: "soft" }, `… ${count(more)} more in the JSON`)));
  return el("div", { class: "wide" }, el("table", { class: titles.length > 3 ? "list stacked" : "list" }, el("thead", {}, head), el("tbody", {}, body)));
}

const code = (text, title) => el("code", { title }, text);
/** A name with dots, which is broken after these alone where it is longer than its place. */
const named = (text) => el("code", { class: "name" }, String(text).split(/(?<=[.])/).flatMap((part) => [el("wbr", {}), part]));
/** The step of chunks in words: of a tile, that part that halving it `k` times leaves. */
const stepOf = (k) => ["a whole", "half", "a quarter"][k] || `1/${2 ** k}`;
const tag = (text, kind = "") => el("span", { class: `tag ${kind}` }, text);

/** Labels and values; what is empty is left out. */
function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, shown.slice(0, LISTED).flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)]));
}

/** A value as it was (`old`) or became (`new`); digests are shortened, and whole where the pointer rests. */
function sideOf(kind, value) {
  const text = said(value), digest = /^[0-9a-f]{64}$/.test(text);
  return el("span", { class: `${kind}${digest ? " mono" : ""}`, title: digest ? text : null }, digest ? `${short(text)}…` : text);
}

/** A bar of a share of the greatest, with what it stands for. */
function held(kind, value, most, text) {
  const bar = el("i");
  bar.style.width = `${Math.max(1, (100 * (value || 0)) / Math.max(1, most))}%`;
  return el("div", { class: `held ${kind}` }, el("span", {}, bar), text);
}
