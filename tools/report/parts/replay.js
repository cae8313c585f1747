// The build, record by record: slider, map, step bars and list of records show the same moment.

const PLAY_MS = 14000;
const ENDINGS = { "build.failed": "bad", "build.abandoned": "warn", "build.refused": "warn", "build.denied": "warn" };

class Replay {
  constructor(told, imagery) {
    this.told = told;
    this.rows = list(told.timeline);
    this.steps = list(told.steps);
    this.place = Math.max(0, this.rows.length - 1);
    this.playing = null;
    this.bars = new StepBars(this);
    this.severity = new Map();
    for (const finding of list(told.findings)) if (finding.seq !== null && finding.severity !== "note" && !this.severity.has(finding.seq)) this.severity.set(finding.seq, finding.severity);
    this.map = told.area ? new AreaMap(byId("map"), told.area, told.failure, told.compare && told.compare.tiles && told.compare.tiles.runs) : null;
    if (this.map && imagery) this.map.imagery = new Imagery(imagery);
    if (this.map && told.proof && list(told.proof.answers).length) this.map.photographs = new Photographs(this.map, told.proof);
  }

  start() {
    this.slider = byId("slider");
    this.slider.max = String(Math.max(0, this.rows.length - 1));
    this.slider.addEventListener("input", () => { this.pause(); this.show(Number(this.slider.value)); });
    byId("play").addEventListener("click", () => this.toggle());
    byId("back").addEventListener("click", () => { this.pause(); this.show(this.place - 1); });
    byId("forth").addEventListener("click", () => { this.pause(); this.show(this.place + 1); });
    document.addEventListener("keydown", (event) => this.key(event));
    if (this.map) this.startMap();
    else {
      byId("map").closest(".stage").classList.add("bare");
      byId("map").closest(".map").remove();
      byId("legend").replaceChildren(el("p", { class: "soft" }, "Nothing is known of an area: the records do not come so far."));
    }
    if (this.rows.length < 2) byId("slider").closest(".transport").hidden = true;
    byId("steps").hidden = !this.steps.length;
    this.bars.start();
    this.show(this.place);
  }

  /** Space plays, Home and End go to the first and last record, unless something else has use for the key. */
  key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target, busy = at instanceof Element && at.closest("button, a, summary, input:not(#slider), select, textarea");
    if (event.key === " " && !busy) { event.preventDefault(); this.toggle(); }
    if ((event.key === "Home" || event.key === "End") && at === byId("map")) { event.preventDefault(); this.pause(); this.show(event.key === "Home" ? 0 : this.rows.length - 1); }
  }

  toggle() {
    if (this.playing) return this.pause();
    if (this.place >= this.rows.length - 1) this.show(0);
    const each = Math.min(700, Math.max(40, PLAY_MS / Math.max(1, this.rows.length))), stride = Math.max(1, Math.ceil((this.rows.length * each) / PLAY_MS));
    this.playing = setInterval(() => (this.place >= this.rows.length - 1 ? this.pause() : this.show(this.place + stride)), each);
    this.label();
  }

  pause() {
    clearInterval(this.playing);
    this.playing = null;
    this.label();
  }

  label() {
    byId("play").textContent = this.playing ? "❚❚" : "▶";
    byId("play").setAttribute("aria-label", this.playing ? "Pause" : "Play");
  }

  /** Show everything as of a row of the timeline. */
  show(place) {
    this.place = Math.min(Math.max(0, place), Math.max(0, this.rows.length - 1));
    const row = this.rows[this.place];
    if (!row) {
      // A plan has no records: its map alone is drawn.
      byId("now").hidden = true;
      if (this.map) { this.map.draw(); this.drawLegend(); }
      return;
    }
    this.slider.value = String(this.place);
    this.slider.setAttribute("aria-valuetext", `record ${row.seq}: ${row.text}`);
    byId("position").replaceChildren(el("b", {}, clock(row.ms)), `${count(this.place + 1)} of ${plural(this.rows.length, "record")}`);
    this.drawNow(row);
    this.bars.mark(row);
    if (this.map) {
      // Once all is told, what was never done stays as it was left.
      this.map.seq = this.place === this.rows.length - 1 ? Infinity : row.seq;
      this.map.draw();
      this.drawLegend();
      if (!byId("tip").hidden) this.pointed();
    }
    if (this.records) this.records.mark(this.place);
  }

  /** The row of a record, or the last one before it. */
  rowOf(seq) {
    let low = 0, high = this.rows.length;
    while (low < high) { const middle = (low + high) >> 1; if (this.rows[middle].seq <= seq) low = middle + 1; else high = middle; }
    return Math.max(0, low - 1);
  }

  goTo(seq) {
    this.pause();
    this.show(this.rowOf(seq));
    byId("replay").scrollIntoView({ block: "start" });
  }

  drawNow(row) {
    const step = row.step === null || row.step === undefined ? null : this.steps[row.step];
    const strange = row.unknown ? [tag(row.problem ? "cannot be read" : "unknown event", "warn"), " "] : [];
    byId("now").replaceChildren(
      el("h2", {}, `Record ${count(row.seq)}`, " ", el("span", { class: "soft" }, row.tag)),
      el("p", { class: "tell", title: row.text }, strange, row.text),
      el("p", { class: "soft" }, [clock(row.ms), row.since_ms ? `${duration(row.since_ms)} after the one before` : null, when(row.time)].filter(Boolean).join(" · ")),
      step ? el("p", { class: "soft" }, `in: ${stepName(step)}`) : "",
      row.build !== this.told.build ? el("p", { class: "soft" }, row.build === null ? "of no build" : `of build ${row.build}`) : "",
    );
  }

  // Map

  startMap() {
    const canvas = byId("map"), map = this.map, tip = byId("tip");
    const redraw = () => { map.draw(); };
    const levels = byId("levels");
    levels.append(el("span", { "aria-hidden": "true" }, "zoom"));
    for (const zoom of map.levels.slice(0, 31)) levels.append(el("button", { type: "button", role: "radio", class: map.faulty.has(zoom) ? "fault" : null, "data-zoom": zoom, on: { click: () => this.setLevel(zoom) } }, String(zoom)));
    levels.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!way) return;
      event.preventDefault();
      const next = map.levels[(map.levels.indexOf(map.zoom) + way + map.levels.length) % map.levels.length];
      this.setLevel(next);
      levels.querySelector(`[data-zoom="${next}"]`).focus();
    });
    canvas.setAttribute("aria-describedby", "maphelp");
    this.setLevel(map.zoom, true);
    new ResizeObserver(() => { if (canvas.clientWidth) { map.fit(); redraw(); this.drawRail(); } }).observe(canvas);
    const zoom = (factor, x, y) => { map.zoomBy(factor, x, y); tip.hidden = true; redraw(); };
    byId("nearer").addEventListener("click", () => zoom(1.6));
    byId("farther").addEventListener("click", () => zoom(1 / 1.6));
    byId("whole").addEventListener("click", () => { map.fit(); redraw(); });
    canvas.addEventListener("wheel", (event) => { if (!event.ctrlKey && document.activeElement !== canvas) return; event.preventDefault(); zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.offsetX, event.offsetY); }, { passive: false });
    let held = null;
    canvas.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      if (held && event.pointerType === "mouse") {
        map.pan(event.clientX - held[0], event.clientY - held[1]);
        held = [event.clientX, event.clientY];
        tip.hidden = true;
        return redraw();
      }
      const { offsetX, offsetY } = event;
      this.pointed = () => this.hover(offsetX, offsetY);
      this.pointed();
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("blur", () => { tip.hidden = true; if (map.cursor) { map.cursor = null; redraw(); } });
    canvas.addEventListener("keydown", (event) => this.mapKey(event, zoom));
  }

  mapKey(event, zoom) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      event.preventDefault();
      const cell = this.map.step(...way);
      if (!cell) return;
      this.map.draw();
      this.pointed = () => this.tip(...this.map.middle(cell), this.aboutCell(cell, []));
      this.pointed();
      byId("spoken").textContent = byId("tip").textContent;
    } else if (event.key === "+" || event.key === "=") zoom(1.6);
    else if (event.key === "-") zoom(1 / 1.6);
    else if (event.key === "0") { this.map.fit(); this.map.draw(); }
    else if (event.key === "Escape") { this.map.cursor = null; byId("tip").hidden = true; this.map.draw(); }
  }

  setLevel(zoom, silent = false) {
    this.map.zoom = zoom;
    this.map.cursor = null;
    byId("tip").hidden = true;
    for (const button of byId("levels").querySelectorAll("button")) {
      const chosen = Number(button.dataset.zoom) === zoom;
      button.setAttribute("aria-checked", String(chosen));
      button.setAttribute("aria-label", `Zoom level ${button.dataset.zoom}${button.classList.contains("fault") ? ", with failing cells" : ""}`);
      button.tabIndex = chosen ? 0 : -1;
    }
    this.map.fit();
    if (!silent) { this.map.draw(); this.drawLegend(); }
  }

  hover(x, y) {
    const photograph = this.map.photographs?.at(x, y);
    if (photograph) return this.tip(x, y, this.map.photographs.about(photograph));
    const found = this.map.at(x, y), layers = found ? found.layers.filter((name) => name !== "present") : [];
    if (!found || (!found.cell && !layers.length)) { byId("tip").hidden = true; return; }
    const lines = [];
    const words = { ...Object.fromEntries(this.map.ages.map((each) => [each.layer, ageName(each)])), ...LAYER_NAMES, added: "new since the last good build", removed: "gone since the last good build", changed: "changed since the last good build" };
    if (found.layers.length) lines.push(`tile ${found.tile.join("/")}${layers.length ? `: ${layers.map((name) => words[name]).join(", ")}` : ""}`);
    lines.push(`${Math.abs(found.latitude).toFixed(4)}° ${found.latitude < 0 ? "S" : "N"}, ${Math.abs(found.longitude).toFixed(4)}° ${found.longitude < 0 ? "W" : "E"}`);
    this.tip(x, y, this.aboutCell(found.cell, lines));
  }

  aboutCell(cell, lines) {
    if (!cell) return [el("b", {}, "No cell of this build"), ...lines.map((line) => el("div", {}, line))];
    const [zoom, x, y, tiles, , dispatched, done] = cell, status = statusAt(cell, this.map.seq, this.map.failedAt), seq = this.map.seq;
    const unit = this.told.cost?.unit === "chunk" ? "chunk" : "tile", failing = this.map.hasFailed ? failingIn(this.map, cell) : 0;
    const told = [tiles === null ? "tiles not known" : plural(tiles, unit)];
    if (failing) told.push(`${count(failing)} of these failing`);
    if (done !== null && done <= seq && isPartly(cell)) told.push(`${count(cell[7])} of these embedded, ${count(cell[8] - cell[7])} copied`);
    if (dispatched !== null && dispatched <= seq) told.push(`given to a worker: record ${count(dispatched)}`);
    if (done !== null && done <= seq && !this.told.plan) told.push(`done: record ${count(done)}`);
    const name = (this.told.plan && PLANNED_NAMES[status]) || STATUS_NAMES[status];
    return [el("b", {}, `Cell ${zoom}/${x}/${y}: ${name}`), ...[...told, ...lines].map((line) => el("div", {}, line))];
  }

  tip(x, y, content) {
    const tip = byId("tip"), canvas = byId("map");
    tip.replaceChildren(...content);
    tip.hidden = false;
    const left = x + 16 + tip.offsetWidth > canvas.clientWidth ? x - 14 - tip.offsetWidth : x + 16, top = y + 16 + tip.offsetHeight > canvas.clientHeight ? y - 12 - tip.offsetHeight : y + 16;
    tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
  }

  drawLegend() {
    const map = this.map, tally = map.tally(), counts = map.byLevel.get(map.zoom)?.counts || {}, known = this.told.area.known === "tiles";
    const line = (name, label, amount, unit, kind) => el("tr", { class: [amount ? "" : "none", kind].join(" ") }, el("td", {}, this.swatch(name)), el("td", {}, label), el("td", { class: "num", title: unit }, count(amount)));
    const level = list(this.told.area.levels).find((each) => each.zoom + each.k === map.zoom), chunks = Boolean(level), unit = known ? (chunks ? "chunks" : "tiles") : "cells", layer = chunks ? "steps of ground" : "tiles";
    const planned = Boolean(this.told.plan), statuses = planned ? ["waiting", "reused"] : STATUS, names = planned ? { ...STATUS_NAMES, ...PLANNED_NAMES } : STATUS_NAMES;
    const used = map.byLevel.get(map.zoom)?.cells.length ? statuses.filter((name) => name !== "failing" || tally.failing.cells || map.faulty.size) : [];
    const body = used.map((name) => line(name, names[name], known ? tally[name].tiles : tally[name].cells, unit, ""));
    if (tally.bare.tiles) body.push(line("map", "without a descriptor", tally.bare.tiles, unit, ""));
    if (tally.partly.cells) body.push(line("partly", "cells that are embedded in part", tally.partly.cells, "cells", ""));
    if (!used.length) body.push(line("under", "seen under chunks of a finer level", counts.present || 0, "tiles", ""));
    body.at(-1).classList.add("space");
    const own = body.length;
    const layers = Object.keys(LAYER_NAMES).filter((name) => counts[name] && (name !== "failing" || counts.failing));
    body.push(...layers.map((name, place) => line(name === "failing" ? "ring" : name, `${LAYER_NAMES[name]}${chunks ? " (steps)" : ""}`, counts[name], layer, `${place ? "" : "line"} ${place === layers.length - 1 ? "space" : ""}`)));
    if (map.photographs) body.push(...map.photographs.legend(this));
    const spoken = used.filter((name) => tally[name].cells).map((name) => `${plural(tally[name].cells, "cell")} ${names[name]}`).join(", ");
    map.canvas.setAttribute("aria-label", `Map of zoom level ${map.zoom}: ${spoken || "no cells"}`);
    const changed = ["added", "removed", "changed"].filter((name) => counts[name]).map((name) => `${count(counts[name])} ${name === "added" ? "new" : name === "removed" ? "gone" : name}`);
    const box = el("input", { type: "checkbox", checked: map.showChanges, on: { change: (event) => { map.showChanges = event.target.checked; map.stale = true; map.draw(); } } });
    const { imagery } = map, ground = imagery?.levelFor(map.zoom);
    const bare = ground ? el("input", { type: "checkbox", checked: imagery.shown, on: { change: (event) => { imagery.shown = event.target.checked; map.stale = true; map.draw(); } } }) : null;
    const aged = map.ages.filter((each) => counts[each.layer]), ages = el("input", { type: "checkbox", checked: map.showAges, on: { change: (event) => { map.showAges = event.target.checked; map.draw(); this.drawLegend(); } } });
    if (map.showAges) body.splice(0, own, ...aged.map((each, place) => line(each.colour, ageName(each), counts[each.layer], "tiles", place === aged.length - 1 ? "space" : "")));
    const hide = map.photographs ? el("input", { type: "checkbox", checked: map.photographs.shown, on: { change: (event) => { map.photographs.shown = event.target.checked; map.draw(); this.drawLegend(); } } }) : null;
    byId("legend").replaceChildren(
      el("table", { "aria-label": "What became of the tiles" }, el("tbody", {}, el("tr", {}, el("td", { colspan: 2, class: "soft" }, `Zoom level ${map.zoom}`), el("td", { class: "num soft" }, used.length ? unit : "tiles")), body)),
      changed.length ? el("label", {}, box, el("span", {}, `outline tiles that differ from build ${this.told.compare.a.build}: ${changed.join(", ")}`)) : "",
      bare ? el("label", {}, bare, el("span", {}, `show imagery under the colours: ${plural(ground.tiles, "tile")} of zoom level ${ground.zoom}, made smaller`)) : "",
      aged.length ? el("label", {}, ages, el("span", {}, `show how old the imagery is on ${this.told.area.ages.as_of}`)) : "",
      hide ? el("label", {}, hide, el("span", {}, "show photographs: a line from the true place to a square, the answer")) : "",
      level && level.k ? el("p", { class: "soft" }, `The chunks are made of tiles of zoom ${level.zoom} and lie ${stepOf(level.k)} of such a tile apart. A square of this map is one such step, as large as a tile of zoom ${map.zoom}; no imagery of that zoom is needed.`) : "",
      this.told.area.report || !known ? "" : el("p", { class: "soft" }, "No geographic report: holes follow from the area alone."),
      imagery?.note ? el("p", { class: "soft" }, imagery.note) : "",
      known ? "" : el("p", { class: "soft" }, "The tile table cannot be read here: whole cells are shown."),
    );
  }

  /** A sample of how something is drawn. */
  swatch(name) {
    const unit = Math.min(3, window.devicePixelRatio || 1), made = surface(18 * unit, 18 * unit), pen = made.getContext("2d"), colours = palette();
    pen.fillStyle = colours[name] || (name === "partly" ? colours.reused : name === "featureless" ? colours.reused : colours.map);
    pen.fillRect(0, 0, made.width, made.height);
    if (name === "ring") {
      pen.scale(unit, unit);
      pen.strokeStyle = colours.failing; pen.lineWidth = 2;
      pen.beginPath(); pen.arc(9, 9, 6.5, 0, 7); pen.moveTo(6.5, 6.5); pen.lineTo(11.5, 11.5); pen.moveTo(11.5, 6.5); pen.lineTo(6.5, 11.5); pen.stroke();
    } else if (name === "hit" || name === "miss") { pen.scale(unit, unit); drawPhotograph(pen, colours, name === "hit", [9, 9], null, false); }
    else if (name === "ageunknown") { pen.fillStyle = pattern(pen, "waiting", colours, unit); pen.fillRect(0, 0, made.width, made.height); }
    else if (!["embedded", "reused", "map", "under"].includes(name) && !name.startsWith("age")) { pen.fillStyle = pattern(pen, name, colours, unit); pen.fillRect(0, 0, made.width, made.height); }
    made.setAttribute("aria-hidden", "true");
    return made;
  }

  /** Above the slider: which step each record belongs to, and where findings are. */
  drawRail() {
    const canvas = byId("rail"), unit = Math.min(3, window.devicePixelRatio || 1), width = canvas.clientWidth, colours = palette(), n = Math.max(1, this.rows.length - 1);
    canvas.width = Math.round(width * unit);
    canvas.height = Math.round(16 * unit);
    const pen = canvas.getContext("2d");
    pen.scale(unit, unit);
    const shade = (row) => {
      const step = row.step === null || row.step === undefined ? null : this.steps[row.step];
      if (!step) return colours.line;
      return step.outcome === "failed" ? colours.failing : step.outcome === "cut" ? colours.dispatched : step.outcome === "reused" ? colours.reused : colours.embedded;
    };
    for (let first = 1, place = 1; place < this.rows.length; place += 1) {
      const next = this.rows[place + 1];
      if (next && next.step === this.rows[place].step) continue;
      const x = ((first - 1) / n) * width, across = ((place - first + 1) / n) * width;
      pen.fillStyle = shade(this.rows[place]);
      pen.fillRect(x, 10, Math.max(0.6, next && across > 3 ? across - 1 : across), 4);
      first = place + 1;
    }
    this.rows.forEach((row, place) => {
      const kind = ENDINGS[row.tag] === "bad" ? "error" : this.severity.get(row.seq) || (row.unknown ? "warning" : null), x = (place / n) * width;
      if (!kind) return;
      pen.fillStyle = kind === "error" ? colours.bad : colours.warn;
      pen.beginPath(); pen.moveTo(x - 5, 0); pen.lineTo(x + 5, 0); pen.lineTo(x, 8); pen.fill();
    });
  }

  /** Draw again whatever has colours or sizes of its own. */
  redraw(resized = false) {
    if (this.map && resized) this.map.fit();
    if (this.map) this.map.stale = true;
    this.drawRail();
    this.bars.draw();
    this.show(this.place);
  }
}
