// The steps of a build as bars on one axis of time that can be zoomed, and the windows of tiles in lanes.

const STEPS_SHOWN = 200;
const LANES_SHOWN = 16;
const LANE_PX = 7;
const LEAST_MS = 5;

/** The lane of each window, so that no two in a lane overlap in time: each takes the first lane that is free. */
function packLanes(parts, until) {
  const free = [], placed = [...parts].sort((a, b) => a.begin_ms - b.begin_ms).map((part) => {
    const end = part.ms === null ? until : part.begin_ms + part.ms, found = free.findIndex((ms) => ms <= part.begin_ms), lane = found < 0 ? free.length : found;
    free[lane] = end;
    return { part, end, lane };
  });
  return { placed, lanes: free.length };
}

class StepBars {
  constructor(replay) {
    this.replay = replay;
    this.until = this.axisEnd();
    this.view = [0, this.until];
    this.made = null;
  }

  /** Milliseconds that the bars span. Whoever finds a dead build may come days later, and would squeeze it to nothing. */
  axisEnd() {
    const { rows, steps, told } = this.replay, last = rows.at(-1), earlier = rows.at(-2);
    const worked = Math.max(1, earlier ? earlier.ms : 0, ...steps.slice(0, STEPS_SHOWN).map((step) => (step.outcome === "cut" ? step.begin_ms : step.begin_ms + (step.ms || 0))));
    if (!last) return Math.max(1, told.ms || 1);
    return last.tag === "build.abandoned" && last.ms > 3 * worked ? worked * 1.15 : Math.max(worked, last.ms, 1);
  }

  start() {
    if (!this.replay.steps.length) return;
    const button = (id, sign, label, does) => el("button", { type: "button", id, "aria-label": label, title: label, on: { click: does } }, sign);
    this.part = el("input", { type: "range", id: "when", min: 0, max: 1000, step: 1, "aria-label": "Part of the time that is shown", on: { input: () => this.move(Number(this.part.value) / 1000) } });
    this.spoken = el("output", { for: "when" });
    this.box = el("div", { id: "bars" });
    byId("steps").replaceChildren(
      el("div", { class: "timezoom", role: "group", "aria-label": "Zoom of the time axis" }, el("span", { "aria-hidden": "true" }, "time"),
        button("sooner", "−", "Show more time", () => this.zoom(1 / 2)), button("later", "+", "Show less time", () => this.zoom(2)), button("alltime", "⤢", "Show all of the time", () => this.fit()), this.part, this.spoken),
      this.box);
    byId("steps").addEventListener("keydown", (event) => this.key(event));
    this.listen();
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") this.zoom(2);
    else if (event.key === "-") this.zoom(1 / 2);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  /** Wheel, drag and pinch over the bars. */
  listen() {
    const held = new Map(), across = () => this.made.lanes.querySelector(".axis div").getBoundingClientRect();
    const partOf = (x) => { const { left, width } = across(); return Math.min(1, Math.max(0, (x - left) / width)); };
    this.box.addEventListener("wheel", (event) => { if (!event.ctrlKey) return; event.preventDefault(); this.zoom(event.deltaY < 0 ? 1.25 : 0.8, partOf(event.clientX)); }, { passive: false });
    this.box.addEventListener("pointerdown", (event) => held.set(event.pointerId, event.clientX));
    for (const name of ["pointerup", "pointercancel"]) addEventListener(name, (event) => held.delete(event.pointerId));
    addEventListener("pointermove", (event) => {
      if (!held.has(event.pointerId)) return;
      const before = [...held.values()], moved = event.clientX - held.get(event.pointerId);
      held.set(event.pointerId, event.clientX);
      const after = [...held.values()], spread = ([a, b]) => Math.max(20, Math.abs(a - b));
      if (after.length > 1) this.zoom(spread(after) / spread(before), partOf((after[0] + after[1]) / 2));
      else if (this.zoomed) this.show(this.view[0] - (moved / across().width) * this.span, this.span);
    });
  }

  get span() {
    return this.view[1] - this.view[0];
  }

  get zoomed() {
    return this.span < this.until;
  }

  fit() {
    this.show(0, this.until);
  }

  /** Show so much less time, around a part of what is shown; by default around the record that is shown. */
  zoom(factor, part = null) {
    const row = this.replay.rows[this.replay.place], now = row ? (row.ms - this.view[0]) / this.span : 0.5;
    const fixed = part === null ? (now >= 0 && now <= 1 ? now : 0.5) : part, span = Math.min(this.until, Math.max(Math.min(LEAST_MS, this.until), this.span / factor));
    this.show(this.view[0] + fixed * (this.span - span), span);
  }

  move(part) {
    this.show(part * (this.until - this.span), this.span);
  }

  show(from, span) {
    const first = Math.min(Math.max(0, from), this.until - span);
    this.view = [first, first + span];
    this.draw();
    const row = this.replay.rows[this.replay.place];
    if (row) this.mark(row);
  }

  percent(ms) {
    return Math.min(100, Math.max(0, (100 * (ms - this.view[0])) / this.span));
  }

  /** Set where a bar lies; what is out of view is not there. */
  lay(node, begin, end) {
    const [left, right] = [this.percent(begin), this.percent(end)];
    node.hidden = end < this.view[0] || begin > this.view[1];
    node.style.left = `min(${left}%, calc(100% - 3px))`;
    node.style.width = `${right - left}%`;
  }

  draw() {
    const { steps } = this.replay, shown = steps.slice(0, STEPS_SHOWN);
    if (!shown.length) return;
    const focused = [...this.box.querySelectorAll("button")].indexOf(document.activeElement);
    const bars = shown.map((step) => this.bar(step)), head = el("div", { id: "head" }), lanes = el("div", { class: "lanes" });
    const ticks = this.ticks().map((ms) => { const made = el("span", {}, this.zoomed ? clock(ms) : duration(ms)); made.style.left = `${this.percent(ms)}%`; return made; });
    lanes.append(...bars.map((bar) => bar.row), el("div", { class: "axis", "aria-hidden": "true" }, el("span"), el("div", {}, ticks), el("span")), head);
    this.made = { bars, head, lanes };
    const most = Math.max(...bars.map((bar) => bar.lanes));
    this.box.replaceChildren(lanes, steps.length > shown.length ? el("p", { class: "soft" }, `… ${count(steps.length - shown.length)} more steps in the JSON`) : "",
      most > 1 ? el("p", { class: "soft" }, `Each window of tiles that was given to a worker has a lane for as long as it was under way, at most ${count(most)} at once. The records do not say which worker had it, and the next window waits for its worker: the lanes follow from the times.${most > LANES_SHOWN ? ` The last lane drawn holds all beyond ${count(LANES_SHOWN)}.` : ""}`) : "");
    this.part.hidden = this.spoken.hidden = !this.zoomed;
    this.part.value = String(this.zoomed ? Math.round((1000 * this.view[0]) / (this.until - this.span)) : 0);
    this.spoken.textContent = this.zoomed ? `${clock(this.view[0])} to ${clock(this.view[1])}` : "";
    this.part.setAttribute("aria-valuetext", this.spoken.textContent);
    if (focused >= 0) this.box.querySelectorAll("button")[focused]?.focus({ preventScroll: true });
    for (const bar of bars) if (bar.parts) this.drawParts(bar);
  }

  bar(step) {
    const { replay } = this, [sign, outcome] = OUTCOMES[step.outcome] || ["?", step.outcome], lasted = step.outcome === "cut" || typeof step.ms !== "number" ? Math.max(0, this.until - step.begin_ms) : step.ms;
    const slow = typeof step.ms === "number" && typeof step.normal_ms === "number" && step.ms > 2 * step.normal_ms && step.ms - step.normal_ms > 1000;
    const usual = typeof step.normal_ms === "number" ? `, usually ${duration(step.normal_ms)}` : "";
    const work = step.count ? `${count(step.count)} ${step.count === 1 && typeof step.unit === "string" ? step.unit.replace(/s$/, "") : step.unit || ""}`.trim() : "";
    const took = step.outcome === "cut" ? "cut short" : duration(step.ms);
    const title = `${stepName(step)}: ${outcome}${typeof step.ms === "number" ? `, ${duration(step.ms)}` : ""}${usual}${work ? `, ${work}` : ""}${step.bytes ? `, ${bytes(step.bytes)}` : ""}${step.why ? `. ${capital(step.why)}` : ""}`;
    const did = el("i", { class: "did" }), track = el("div", { class: "track", title });
    if (typeof step.normal_ms === "number") { const ghost = el("i", { class: "ghost" }); this.lay(ghost, step.begin_ms, step.begin_ms + step.normal_ms); track.append(ghost); }
    track.append(did);
    const { placed, lanes } = packLanes(list(step.parts), step.begin_ms + lasted), parts = lanes > 1 || placed.length > 1 ? el("canvas", { class: "parts", "aria-hidden": "true" }) : null;
    if (parts) track.append(parts);
    if (lanes > 1) { track.classList.add("laned"); track.style.height = `${Math.min(lanes, LANES_SHOWN) * LANE_PX + 8}px`; }
    const row = el("div", { class: `step ${step.outcome}` },
      el("button", { type: "button", title, "aria-label": title, on: { click: () => { replay.pause(); replay.show(replay.rowOf(step.to === null ? step.from : step.to)); } } }, el("span", { class: "sign", "aria-hidden": "true" }, sign), el("span", { class: "name" }, stepName(step))),
      track, el("span", { class: `took ${slow ? "slow" : ""}`, title }, took, work ? el("span", { class: "soft" }, ` · ${work}`) : ""));
    return { step, row, did, lasted, parts, placed, lanes };
  }

  /** The windows of a step: gaps in its bar, or each in its lane; those that did not end, and those tried again, stand out. */
  drawParts({ step, parts, placed, lanes }) {
    const unit = Math.min(3, window.devicePixelRatio || 1), width = parts.clientWidth || 1200, height = parts.clientHeight || 14, colours = palette(), pen = parts.getContext("2d");
    parts.width = Math.round(width * unit); parts.height = Math.round(height * unit);
    pen.scale(unit, unit);
    const x = (ms) => (this.percent(ms) / 100) * width, cut = pattern(pen, "dispatched", colours, unit);
    for (const { part, end, lane } of placed) {
      if (end < this.view[0] || part.begin_ms > this.view[1]) continue;
      const left = x(part.begin_ms), right = Math.max(x(end), left + 1.5), again = part.attempts > 1;
      if (lanes > 1) {
        const top = Math.min(lane, LANES_SHOWN - 1) * LANE_PX;
        pen.fillStyle = part.ms === null ? (step.outcome === "failed" ? colours.failing : colours.dispatched) : colours.embedded;
        pen.fillRect(left, top, Math.max(1, right - left - 1), LANE_PX - 1);
        if (part.ms === null) { pen.fillStyle = cut; pen.fillRect(left, top, right - left, LANE_PX - 1); }
        if (again) { pen.fillStyle = colours.dispatched; pen.fillRect(left, top + LANE_PX - 4, Math.max(2, right - left - 1), 3); }
        continue;
      }
      if (part.ms !== null && right < width - 1) { pen.fillStyle = colours.card; pen.fillRect(right - 0.5, 0, 1, height); }
      if (again) { pen.fillStyle = colours.dispatched; pen.fillRect(left, height - 4, Math.max(2, right - left), 4); }
    }
  }

  ticks() {
    const power = 10 ** Math.floor(Math.log10(this.span / 4)), step = [1, 2, 5, 10].find((each) => each * power * 5 >= this.span) * power;
    const found = [];
    for (let ms = Math.ceil(this.view[0] / step) * step; ms <= this.view[0] + this.span * 0.97; ms += step) found.push(ms);
    return found;
  }

  mark(row) {
    if (!this.made) return;
    const { bars, head } = this.made, last = this.replay.place === this.replay.rows.length - 1;
    for (const { step, row: node, did, lasted, parts, lanes } of bars) {
      const begun = step.from <= row.seq, ended = step.to !== null && step.to <= row.seq, until = ended || last ? step.begin_ms + lasted : Math.min(step.begin_ms + lasted, row.ms);
      node.classList.toggle("todo", !begun);
      node.classList.toggle("busy", begun && !ended);
      this.lay(did, step.begin_ms, begun ? Math.max(step.begin_ms, until) : step.begin_ms);
      if (lanes > 1) parts.style.clipPath = `inset(0 ${begun ? 100 - this.percent(until) : 100}% 0 0)`;
    }
    const track = bars[0].row.querySelector(".track");
    this.made.lanes.style.setProperty("--now", `${(100 * (row.ms - this.view[0])) / this.span}%`);
    head.hidden = row.ms < this.view[0] || row.ms > this.view[1];
    head.style.left = `${track.offsetLeft + (this.percent(row.ms) / 100) * track.clientWidth - 1}px`;
  }
}
