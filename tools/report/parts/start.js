// Draws the page once, then follows theme, print and size.

const THEMES = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
const PAPER_ROWS = 9;
const PAPER_STEPS = 12;

/** Leave out of long tables and lists what two pages have no room for, and return notes that say how much it is. */
function shorten() {
  const groups = [...document.querySelectorAll("#panels tbody")].map((each) => [[...each.rows], each.closest("#cost") ? PAPER_STEPS + 2 : PAPER_ROWS, (note) => el("tr", {}, el("td", { colspan: 9, class: "soft" }, note))]);
  const lists = [["#findings", ".finding", 5], ["#bars .lanes", ".step", PAPER_STEPS], ["#readiness", ".finding", 4], ["#host dl", "dt, dd", 2 * PAPER_ROWS]];
  for (const [where, what, most] of lists) for (const each of document.querySelectorAll(where)) groups.push([[...each.querySelectorAll(what)], most, (note) => el(what === "dt, dd" ? "dd" : "p", { class: "soft" }, note)]);
  return groups.flatMap(([items, most, note]) => {
    if (items.length <= most + 1) return [];
    for (const each of items.slice(most)) each.classList.add("overpaper");
    const made = note(`… ${count(items.length - most)} more in the page`);
    items[most - 1].after(made);
    return [made];
  });
}

/** The last records alone, at the end, where paper may have no room for all of them. */
function printRecords(replay, records) {
  const rows = replay.rows.slice(-PAPER_ROWS).map((row) => [String(row.seq), clock(row.ms), row.text]);
  document.querySelector("#records .onpaper").replaceChildren(replay.rows.length > rows.length ? `The last ${rows.length} of ${count(replay.rows.length)}.` : "", table([">Record", ">At", "What it says"], rows));
  byId("panels").append(records);
}

function start() {
  const told = JSON.parse(byId("replay-data").textContent), dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const pictures = byId("imagery-data"), replay = new Replay(told, pictures ? JSON.parse(pictures.textContent) : null);
  let chosen = "auto";
  root.dataset.scripted = "yes";
  const wear = (theme) => { root.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme; };
  const button = byId("theme");
  const label = () => { button.textContent = THEMES[chosen]; button.setAttribute("aria-label", `Colours: ${chosen}`); };
  wear(chosen);
  label();
  drawHeadline(told);
  replay.start();
  performance.mark("drawn");
  root.dataset.drawnMs = String(Math.round(performance.now()));
  drawPanels(told, replay);
  replay.show(replay.place);
  replay.drawRail();
  button.addEventListener("click", () => { chosen = { auto: "light", light: "dark", dark: "auto" }[chosen]; wear(chosen); label(); replay.redraw(); });
  dark.addEventListener("change", () => { wear(chosen); replay.redraw(); });
  addEventListener("resize", () => { replay.drawRail(); replay.bars.draw(); replay.show(replay.place); });
  byId("print").addEventListener("click", () => print());
  // A plan has no records.
  const records = byId("records"), after = records?.nextSibling;
  let added = [];
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    root.classList.add("paper");
    replay.bars.fit();
    replay.redraw(true);
    if (records) printRecords(replay, records);
    added = shorten();
  });
  addEventListener("afterprint", () => {
    if (records) byId("panels").insertBefore(records, after);
    for (const each of added) each.remove();
    for (const each of document.querySelectorAll(".overpaper")) each.classList.remove("overpaper");
    records?.querySelector(".onpaper").replaceChildren();
    wear(chosen);
    root.classList.remove("paper");
    replay.redraw(true);
  });
  replay.map?.imagery?.ready.then(() => { replay.redraw(); root.dataset.imagery = "yes"; });
  root.dataset.ready = "yes";
}

try {
  start();
} catch (error) {
  byId("headline").replaceChildren(el("h1", {}, "This page cannot be drawn"), el("p", {}, String(error)), el("p", {}, "Make it again with c10 report, or read the data with c10 replay --json."));
  document.documentElement.dataset.ready = "no";
  throw error;
}
