// What became of tiles and chunks at the record that a map shows, so that its figures add up to those of the build.

/** Whether only a part of a cell went through the network. */
const isPartly = ([, , , , , , , embedded, described]) => embedded > 0 && embedded < described;

/** Cells and units per status on the level of a map; `bare` are those without a descriptor, `partly` cells of two kinds. */
function countsOf(map) {
  const found = Object.fromEntries([...STATUS, "bare", "partly"].map((name) => [name, { cells: 0, tiles: 0 }]));
  for (const cell of map.byLevel.get(map.zoom)?.cells || []) {
    const failing = map.hasFailed ? failingIn(map, cell) : 0, whole = Math.max(0, (cell[3] || 0) - failing), status = map.statusOf(cell);
    const done = status === "embedded" || status === "reused", described = done ? Math.min(whole, cell[8] ?? whole) : 0;
    const embedded = status === "embedded" ? Math.min(described, cell[7] ?? described) : 0;
    found[statusAt(cell, map.seq, map.failedAt)].cells += 1;
    found.failing.tiles += failing;
    found.embedded.tiles += embedded;
    found.reused.tiles += described - embedded;
    if (done) found.bare.tiles += whole - described;
    else found[status].tiles += whole;
    if (status === "embedded" && isPartly(cell)) found.partly.cells += 1;
  }
  return found;
}

/** How many failing tiles are in a cell. */
function failingIn(map, [zoom, x, y]) {
  const rows = map.byLevel.get(zoom).rows.get("failing") || new Map(), left = x * CELL;
  let tiles = 0;
  for (let row = y * CELL; row < (y + 1) * CELL; row += 1)
    for (const [first, last] of rows.get(row) || []) tiles += Math.max(0, Math.min(last, left + CELL - 1) - Math.max(first, left) + 1);
  return tiles;
}
