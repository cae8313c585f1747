// The area on a canvas, in Web Mercator: cells by what happened to them, as of any record.
//
// Three layers: cells in colour, cut out by the tiles that there are (the mask), and what does not change with time (the
// cover: holes, patterns, grid). Mask and cover are drawn once per view, so that a step of the slider costs only the cells.

const CELL = 16;
const MAX_ZOOM = 30;
const EARTH_M = 40075016.686;
const STATUS = ["embedded", "reused", "dispatched", "failing", "waiting"];
const STATUS_NAMES = { embedded: "embedded", reused: "reused", dispatched: "under way", failing: "failing", waiting: "not reached" };
const PLANNED_NAMES = { waiting: "to be embedded", reused: "descriptors are there" };
const LAYER_NAMES = { holes: "hole in the coverage", excluded: "excluded", skipped: "skipped", featureless: "no place can be found by it", failing: "failing tile" };
const COLOURS = ["map", "embedded", "reused", "dispatched", "failing", "waiting", "hole", "mark", "halo", "card", "line", "soft", "ink", "accent", "bad", "warn", "good", "sunk", "age0", "age1", "age2", "age3", "age4", "ageunknown"];

const mercator = (latitude) => {
  const sine = Math.min(0.9999, Math.max(-0.9999, Math.sin((latitude * Math.PI) / 180)));
  return 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI);
};
const latitudeOf = (y) => (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI;

/** The colours of the page as they are now. */
function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function surface(width, height) {
  const made = document.createElement("canvas");
  made.width = Math.max(1, width);
  made.height = Math.max(1, height);
  return made;
}

/** Strokes that repeat, so that nothing is told by colour alone. `unit` is a device pixel per CSS pixel. */
function pattern(context, name, colours, unit) {
  const size = Math.round(8 * unit), tile = surface(size, size), pen = tile.getContext("2d");
  pen.scale(size / 8, size / 8);
  pen.lineWidth = name === "partly" ? 2.8 : 1.3;
  pen.strokeStyle = pen.fillStyle = { partly: colours.embedded, dispatched: colours.ink, failing: colours.card, waiting: colours.soft, holes: colours.hole, featureless: colours.card }[name] || colours.hole;
  pen.globalAlpha = { dispatched: 0.34, failing: 0.5, waiting: 0.55 }[name] || 1;
  const stroke = (...points) => { pen.beginPath(); points.forEach(([x, y], place) => (place ? pen.lineTo(x, y) : pen.moveTo(x, y))); pen.stroke(); };
  if (name === "waiting") pen.fillRect(3, 3, 1.6, 1.6);
  else if (name === "featureless") {
    pen.strokeStyle = colours.halo; pen.fillStyle = colours.mark;
    pen.beginPath(); pen.arc(4, 4, 1.8, 0, 7); pen.fill(); pen.stroke();
  }
  else if (name === "excluded") stroke([0, 4], [8, 4]);
  else if (name === "skipped") stroke([4, 0], [4, 8]);
  else {
    stroke([-2, 2], [2, -2]); stroke([0, 8], [8, 0]); stroke([6, 10], [10, 6]);
    if (name === "failing") { stroke([-2, 6], [2, 10]); stroke([0, 0], [8, 8]); stroke([6, -2], [10, 2]); }
  }
  return context.createPattern(tile, "repeat");
}

/** The colour of an age of imagery: the older, the darker. */
function ageColour({ least_days: least }) {
  if (least === null) return "ageunknown";
  return `age${[0, 31, 91, 181, 366].findLastIndex((each) => each <= least)}`;
}

function ageName({ least_days: least, most_days: most }) {
  if (least === null) return "no capture date";
  if (most === null) return `${count(least)} days old or more`;
  return least ? `${count(least)} to ${count(most)} days old` : `up to ${count(most)} days old`;
}

/** What a cell was at a record. */
function statusAt(cell, seq, failedAt) {
  const [, , , , status, dispatched, done] = cell;
  if (status === "failing" && failedAt !== null && failedAt <= seq) return "failing";
  if (done !== null && done <= seq) return status === "reused" || cell[7] === 0 ? "reused" : "embedded";
  return dispatched !== null && dispatched <= seq ? "dispatched" : "waiting";
}

class AreaMap {
  constructor(canvas, area, failure, changes) {
    this.canvas = canvas;
    this.area = area;
    this.failedAt = failure ? failure.seq : null;
    this.changes = changes;
    this.showChanges = false;
    this.showAges = false;
    this.photographs = null;
    this.imagery = null;
    this.seq = Infinity;
    this.cursor = null;
    this.box = this.boxOf(area.bbox_e7);
    this.outlined = list(area.rings).length + list(area.routes).length > 0;
    this.byLevel = new Map();
    list(area.cells).forEach((cell, place) => { if (cell[0] >= 0 && cell[0] <= MAX_ZOOM) this.level(cell[0]).cells.push([...cell, ...list(list(area.descriptors)[place])]); });
    for (const name of ["present", ...Object.keys(LAYER_NAMES)]) for (const run of list(area.tiles && area.tiles[name])) this.put(run, name);
    for (const name of ["added", "removed", "changed"]) for (const run of list(changes && changes[name])) this.put(run, name);
    this.ages = list(area.ages && area.ages.classes).map((each, place) => ({ ...each, layer: `age ${place}`, colour: ageColour(each) }));
    for (const each of this.ages) for (const run of list(each.runs)) this.put(run, each.layer);
    this.levels = [...this.byLevel.keys()].sort((a, b) => a - b);
    const having = (status) => this.levels.filter((zoom) => this.byLevel.get(zoom).counts[status] || this.byLevel.get(zoom).cells.some((cell) => cell[4] === status));
    const faulty = having("failing"), first = faulty.length ? faulty : having("dispatched");
    this.faulty = new Set(faulty);
    this.zoom = first.length ? first.at(-1) : this.levels.length ? this.levels.at(-1) : 0;
  }

  /** What a cell is painted as: where the failing tiles are known, the others of their cell have not failed. */
  statusOf(cell) {
    return statusAt(cell, this.seq, this.byLevel.get(cell[0]).rows.has("failing") ? null : this.failedAt);
  }

  get hasFailed() {
    return this.failedAt !== null && this.failedAt <= this.seq;
  }

  level(zoom) {
    if (!this.byLevel.has(zoom)) this.byLevel.set(zoom, { cells: [], rows: new Map(), counts: {}, index: null });
    return this.byLevel.get(zoom);
  }

  put([zoom, y, first, last], name) {
    if (!(zoom >= 0 && zoom <= MAX_ZOOM && last >= first)) return;
    const level = this.level(zoom), rows = level.rows.get(name) || level.rows.set(name, new Map()).get(name);
    if (!rows.has(y)) rows.set(y, []);
    rows.get(y).push([first, last]);
    level.counts[name] = (level.counts[name] || 0) + last - first + 1;
  }

  /** West, north, east, south in parts of the world; east may lie beyond 1 where the box crosses the date line. */
  boxOf(e7) {
    if (!Array.isArray(e7)) return null;
    const [west, south, east, north] = e7.map((value) => value / 1e7);
    const left = west / 360 + 0.5, right = east / 360 + 0.5 + (east < west ? 1 : 0);
    return [left, mercator(north), right, mercator(south)];
  }

  /** A horizontal place, moved around the world to where the box is. */
  around(x) {
    return this.box && this.box[2] > 1 && x < (this.box[0] + this.box[2] - 1) / 2 ? x + 1 : x;
  }

  /** Set the view to the box and to all tiles of the level. */
  fit() {
    const n = 2 ** this.zoom, level = this.byLevel.get(this.zoom);
    let [left, top, right, bottom] = this.box || [Infinity, Infinity, -Infinity, -Infinity];
    const take = (x0, y0, x1, y1) => { left = Math.min(left, x0); top = Math.min(top, y0); right = Math.max(right, x1); bottom = Math.max(bottom, y1); };
    const told = level && ["present", "holes"].some((name) => level.rows.has(name));
    if (told) for (const name of ["present", "holes"]) for (const [y, runs] of level.rows.get(name) || []) for (const [first, last] of runs) { const x = this.around(first / n); take(x, y / n, x + (last - first + 1) / n, (y + 1) / n); }
    else if (level) for (const [, x, y] of level.cells) { const west = this.around((x * CELL) / n); take(west, (y * CELL) / n, west + CELL / n, ((y + 1) * CELL) / n); }
    if (!(right > left && bottom > top)) [left, top, right, bottom] = [0, 0, 1, 1];
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const pad = { left: 26, right: 26, top: 52, bottom: 44 };
    this.scale = Math.min(Math.max(40, width - pad.left - pad.right) / (right - left), Math.max(40, height - pad.top - pad.bottom) / (bottom - top));
    this.x = (left + right) / 2 - (pad.left - pad.right) / 2 / this.scale;
    this.y = (top + bottom) / 2 - (pad.top - pad.bottom) / 2 / this.scale;
    this.least = this.scale / 4;
    this.stale = true;
  }

  zoomBy(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const [x, y] = this.world(px, py);
    this.scale = Math.min(Math.max(this.scale * factor, this.least), 2 ** this.zoom * 256);
    this.x = x - (px - this.canvas.clientWidth / 2) / this.scale;
    this.y = y - (py - this.canvas.clientHeight / 2) / this.scale;
    this.stale = true;
  }

  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.stale = true;
  }

  world(px, py) {
    return [this.x + (px - this.canvas.clientWidth / 2) / this.scale, this.y + (py - this.canvas.clientHeight / 2) / this.scale];
  }

  screen(x, y) {
    return [this.canvas.clientWidth / 2 + (x - this.x) * this.scale, this.canvas.clientHeight / 2 + (y - this.y) * this.scale];
  }

  /** Device pixels [x, y, width, height] of a rectangle of tiles, on whole pixels so that neighbours meet. */
  pixels(x, y, across, down, zoom = this.zoom) {
    const n = 2 ** zoom, left = this.around(x / n), [x0, y0] = this.screen(left, y / n), [x1, y1] = this.screen(left + across / n, (y + down) / n);
    const u = this.unit, a = Math.round(x0 * u), b = Math.round(y0 * u);
    return [a, b, Math.max(1, Math.round(x1 * u) - a), Math.max(1, Math.round(y1 * u) - b)];
  }

  inView([x, y, width, height]) {
    return x < this.canvas.width && y < this.canvas.height && x + width > 0 && y + height > 0;
  }

  /** Draw all; the layers that only depend on the view are kept. */
  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.unit = Math.min(3, window.devicePixelRatio || 1);
    if (this.canvas.width !== Math.round(width * this.unit) || this.canvas.height !== Math.round(height * this.unit)) {
      this.canvas.width = Math.round(width * this.unit);
      this.canvas.height = Math.round(height * this.unit);
      this.stale = true;
    }
    if (this.stale) this.prepare();
    const pen = this.canvas.getContext("2d"), paint = this.paint.getContext("2d");
    paint.globalCompositeOperation = "source-over";
    paint.clearRect(0, 0, this.paint.width, this.paint.height);
    if (this.showAges) this.paintAges(paint);
    else for (const cell of this.byLevel.get(this.zoom)?.cells || []) {
      const place = this.pixels(cell[1] * CELL, cell[2] * CELL, CELL, CELL);
      if (!this.inView(place)) continue;
      const status = this.statusOf(cell);
      const partly = status === "embedded" && isPartly(cell), over = this.patterns[partly ? "partly" : status];
      paint.fillStyle = this.colours[partly ? "reused" : status];
      paint.fillRect(...place);
      if (over) { paint.fillStyle = over; paint.fillRect(...place); }
    }
    const failing = this.byLevel.get(this.zoom)?.rows.get("failing");
    if (this.hasFailed) for (const style of [this.colours.failing, this.patterns.failing]) this.fillRuns(paint, failing, style);
    paint.globalCompositeOperation = "destination-in";
    if (this.mask) paint.drawImage(this.mask, 0, 0);
    if (this.ground) Imagery.thin(paint, this.ground);
    pen.fillStyle = this.colours.map;
    pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.ground) pen.drawImage(this.ground, 0, 0);
    pen.drawImage(this.under, 0, 0);
    pen.drawImage(this.paint, 0, 0);
    pen.drawImage(this.cover, 0, 0);
    pen.save();
    pen.scale(this.unit, this.unit);
    this.marks(pen);
    pen.restore();
  }

  /** The tiles by the age of their imagery; unknown ages are dotted. */
  paintAges(pen) {
    for (const each of this.ages) {
      const rows = this.byLevel.get(this.zoom)?.rows.get(each.layer);
      this.fillRuns(pen, rows, this.colours[each.colour]);
      if (each.colour === "ageunknown") this.fillRuns(pen, rows, this.patterns.waiting);
    }
  }

  prepare() {
    const { width, height } = this.canvas, level = this.byLevel.get(this.zoom);
    this.colours = palette();
    [this.paint, this.under, this.cover] = [0, 1, 2].map(() => surface(width, height));
    const under = this.under.getContext("2d"), cover = this.cover.getContext("2d");
    this.patterns = Object.fromEntries(["partly", "dispatched", "failing", "waiting", "holes", "excluded", "skipped", "featureless"].map((name) => [name, pattern(cover, name, this.colours, this.unit)]));
    this.mask = level && level.rows.has("present") ? this.cut(level) : null;
    this.ground = this.imagery?.layer(this) || null;
    if (level) {
      for (const name of ["holes", "excluded", "skipped"]) this.fillRuns(under, level.rows.get(name), this.patterns[name]);
      if (this.mask) this.fillRuns(cover, level.rows.get("featureless"), this.patterns.featureless);
      if (this.showChanges) this.outline(cover, level);
      this.grid(cover, level);
    }
    this.frame(cover);
    this.stale = false;
  }

  /** The tiles that there are, as what of the cells is to be seen. */
  cut(level) {
    const mask = surface(this.canvas.width, this.canvas.height), pen = mask.getContext("2d");
    for (const name of ["present", "failing"]) this.fillRuns(pen, level.rows.get(name), "#000");
    const side = (this.scale / 2 ** this.zoom) * this.unit;
    if (side >= 5) {
      pen.globalCompositeOperation = "destination-out";
      this.lines(pen, 1, side >= 12 ? this.unit : 0.7);
    }
    return mask;
  }

  fillRuns(pen, rows, style) {
    pen.fillStyle = style;
    for (const [y, runs] of rows || []) {
      for (const [first, last] of runs) {
        const place = this.pixels(first, y, last - first + 1, 1);
        if (this.inView(place)) pen.fillRect(...place);
      }
    }
  }

  /** Lines between tiles, `every` so many, over all that is in view. */
  lines(pen, every, width) {
    const n = 2 ** this.zoom, u = this.unit, [left, top] = this.world(0, 0), [right, bottom] = this.world(this.canvas.clientWidth, this.canvas.clientHeight);
    pen.fillStyle = "#0009";
    for (let x = Math.floor((left * n) / every) * every; x <= right * n; x += every) pen.fillRect(Math.round(this.screen(x / n, 0)[0] * u) - width / 2, 0, width, pen.canvas.height);
    for (let y = Math.floor((top * n) / every) * every; y <= bottom * n; y += every) pen.fillRect(0, Math.round(this.screen(0, y / n)[1] * u) - width / 2, pen.canvas.width, width);
  }

  /** The edges of cells. */
  grid(pen, level) {
    const side = (this.scale / 2 ** this.zoom) * CELL;
    if (side < 14) return;
    pen.strokeStyle = this.colours.map;
    pen.lineWidth = (side > 40 ? 2 : side > 24 ? 1.2 : 0.7) * this.unit;
    for (const [, x, y] of level.cells) {
      const place = this.pixels(x * CELL, y * CELL, CELL, CELL);
      if (this.inView(place)) pen.strokeRect(...place);
    }
  }

  /** A line around the tiles that are new, other or gone: their shape grown on all sides, less the shape itself. */
  outline(pen, level) {
    for (const [name, colour] of [["added", this.colours.mark], ["changed", this.colours.accent], ["removed", this.colours.bad]]) {
      if (!level.rows.has(name)) continue;
      const shape = surface(pen.canvas.width, pen.canvas.height);
      this.fillRuns(shape.getContext("2d"), level.rows.get(name), "#000");
      for (const [tint, wide] of [[this.colours.halo, 3.5], [colour, 2]]) {
        const grown = surface(shape.width, shape.height), brush = grown.getContext("2d"), far = Math.ceil(wide * this.unit);
        for (const dx of [-far, 0, far]) for (const dy of [-far, 0, far]) brush.drawImage(shape, dx, dy);
        brush.globalCompositeOperation = "destination-out";
        brush.drawImage(shape, 0, 0);
        brush.globalCompositeOperation = "source-in";
        brush.fillStyle = tint;
        brush.fillRect(0, 0, grown.width, grown.height);
        pen.drawImage(grown, 0, 0);
      }
    }
  }

  /** The area that was asked for, and a scale. */
  frame(pen) {
    pen.save();
    pen.scale(this.unit, this.unit);
    if (this.box) {
      const [x0, y0] = this.screen(this.box[0], this.box[1]), [x1, y1] = this.screen(this.box[2], this.box[3]);
      pen.strokeStyle = this.colours.mark;
      pen.lineWidth = 1.5;
      pen.setLineDash([6, 4]);
      if (this.outlined) this.shape(pen);
      else pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
      pen.setLineDash([]);
    }
    const metres = (EARTH_M * Math.cos((latitudeOf(this.y) * Math.PI) / 180)) / this.scale;
    const most = metres * 110, power = 10 ** Math.floor(Math.log10(most)), nice = [5, 2, 1].find((step) => step * power <= most) * power;
    const width = nice / metres, bottom = this.canvas.clientHeight - 16;
    pen.font = '11.5px system-ui, "Segoe UI", sans-serif';
    const label = nice >= 1000 ? `${count(nice / 1000)} km` : `${nice} m`;
    for (const [colour, thick] of [[this.colours.map, 4], [this.colours.ink, 1.5]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      pen.beginPath();
      pen.moveTo(16, bottom - 5); pen.lineTo(16, bottom); pen.lineTo(16 + width, bottom); pen.lineTo(16 + width, bottom - 5);
      pen.stroke();
      if (thick === 4) pen.strokeText(label, 16 + width + 7, bottom + 1);
    }
    pen.fillStyle = this.colours.ink;
    pen.fillText(label, 16 + width + 7, bottom + 1);
    pen.restore();
  }

  /** The polygons and routes that were asked for. */
  shape(pen) {
    pen.beginPath();
    for (const name of ["rings", "routes"]) for (const line of list(this.area[name])) {
      const west = line.reduce((least, [x]) => Math.min(least, x), Infinity) / 3.6e9 + 0.5, shift = this.around(west) - west;
      line.forEach(([x, y], place) => pen[place ? "lineTo" : "moveTo"](...this.screen(x / 3.6e9 + 0.5 + shift, mercator(y / 1e7))));
      if (name === "rings") pen.closePath();
    }
    pen.stroke();
  }

  /** What stands out at any scale: failing tiles, the origin, the cell under the cursor. */
  marks(pen) {
    this.photographs?.draw(pen);
    const level = this.byLevel.get(this.zoom), n = 2 ** this.zoom;
    const both = (draw, wide, thin, colour) => { for (const [style, width] of [[this.colours.halo, wide], [colour, thin]]) { pen.strokeStyle = style; pen.lineWidth = width; draw(); } };
    const failing = [...(level?.rows.get("failing") || [])].flatMap(([y, runs]) => runs.map(([first, last]) => [first, last, y]));
    if (this.hasFailed && failing.length <= 40) {
      for (const [first, last, y] of failing) {
        const [x, top] = this.screen(this.around((first + last + 1) / 2 / n), (y + 0.5) / n), r = Math.max(9, (this.scale / n) * 0.5 + 4);
        pen.fillStyle = this.colours.halo;
        pen.beginPath(); pen.arc(x, top, r, 0, 7); pen.fill();
        both(() => { pen.beginPath(); pen.arc(x, top, r, 0, 7); pen.stroke(); }, 5.5, 2.5, this.colours.failing);
        both(() => { for (const way of [1, -1]) { pen.beginPath(); pen.moveTo(x - 4, top - 4 * way); pen.lineTo(x + 4, top + 4 * way); pen.stroke(); } }, 5, 2.2, this.colours.failing);
      }
    }
    const origin = this.area.origin;
    if (origin && typeof origin.lon_e7 === "number" && typeof origin.lat_e7 === "number") {
      const [x, y] = this.screen(this.around(origin.lon_e7 / 3.6e9 + 0.5), mercator(origin.lat_e7 / 1e7));
      both(() => { pen.beginPath(); pen.arc(x, y, 6, 0, 7); pen.moveTo(x - 12, y); pen.lineTo(x + 12, y); pen.moveTo(x, y - 12); pen.lineTo(x, y + 12); pen.stroke(); }, 5, 1.8, this.colours.mark);
      pen.font = '600 11.5px system-ui, "Segoe UI", sans-serif';
      pen.lineJoin = "round";
      pen.strokeStyle = this.colours.halo; pen.lineWidth = 4; pen.strokeText("origin", x + 14, y - 6);
      pen.fillStyle = this.colours.mark; pen.fillText("origin", x + 14, y - 6);
    }
    if (this.cursor) {
      const u = this.unit, [a, b, width, height] = this.pixels(this.cursor[1] * CELL, this.cursor[2] * CELL, CELL, CELL);
      both(() => pen.strokeRect(a / u, b / u, width / u, height / u), 5, 2.5, this.colours.accent);
    }
  }

  /** What is at a place of the canvas: {cell, tile, layers, latitude, longitude}. */
  at(px, py) {
    const [x, y] = this.world(px, py), n = 2 ** this.zoom, level = this.byLevel.get(this.zoom);
    if (!level || y < 0 || y >= 1) return null;
    const column = Math.floor((((x % 1) + 1) % 1) * n), row = Math.floor(y * n);
    if (!level.index) level.index = new Map(level.cells.map((cell) => [`${cell[1]}/${cell[2]}`, cell]));
    const layers = [...level.rows].filter(([, rows]) => (rows.get(row) || []).some(([first, last]) => first <= column && column <= last)).map(([name]) => name);
    return { cell: level.index.get(`${Math.floor(column / CELL)}/${Math.floor(row / CELL)}`) || null, tile: [this.zoom, column, row], layers, latitude: latitudeOf(y), longitude: (((x % 1) + 1) % 1) * 360 - 180 };
  }

  /** Move the cursor to the next cell of the level in a direction. */
  step(dx, dy) {
    const cells = this.byLevel.get(this.zoom)?.cells || [];
    if (!cells.length) return null;
    if (!this.cursor) return (this.cursor = cells.find((cell) => cell[4] === "failing") || cells[0]);
    let best = null, nearest = Infinity;
    for (const cell of cells) {
      const along = (cell[1] - this.cursor[1]) * dx + (cell[2] - this.cursor[2]) * dy, aside = Math.abs((cell[1] - this.cursor[1]) * dy) + Math.abs((cell[2] - this.cursor[2]) * dx);
      if (along > 0 && along + 3 * aside < nearest) { nearest = along + 3 * aside; best = cell; }
    }
    return best ? (this.cursor = best) : this.cursor;
  }

  /** The middle of a cell on the canvas. */
  middle(cell) {
    const n = 2 ** this.zoom;
    return this.screen(this.around(((cell[1] + 0.5) * CELL) / n), ((cell[2] + 0.5) * CELL) / n);
  }

  /** Cells and tiles per status at the record that is shown. */
  tally() {
    return countsOf(this);
  }
}
