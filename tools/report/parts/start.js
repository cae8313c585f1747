// Draws the page once, then follows theme, print and size.

const THEMES = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
const PAPER_ROWS = 400;

function start() {
  const told = JSON.parse(byId("replay-data").textContent), dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const pictures = byId("imagery-data"), replay = new Replay(told, pictures ? JSON.parse(pictures.textContent) : null);
  let chosen = "auto";
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
  addEventListener("resize", () => { replay.drawRail(); replay.show(replay.place); });
  byId("print").addEventListener("click", () => print());
  let opened = [];
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    root.classList.add("paper");
    replay.redraw(true);
    opened = [...document.querySelectorAll("details:not([open], .deep)")];
    for (const each of opened) each.open = true;
    const rows = replay.rows.slice(0, PAPER_ROWS).map((row) => [String(row.seq), clock(row.ms), row.tag, row.text]);
    const more = replay.rows.length - rows.length;
    document.querySelector("#records .onpaper").replaceChildren(table([">Record", ">At", "Event", "What it says"], rows), more > 0 ? `… ${count(more)} more in the JSON` : "");
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
    document.querySelector("#records .onpaper").replaceChildren();
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
