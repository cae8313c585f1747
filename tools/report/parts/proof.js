// Photographs whose true place is known: on the map, and in a panel with every error.

const NEAR_PX = 12;
const ANSWERS_OPEN = 14;

/** Draw a photograph: a disc where it was found, a cross where not; a whole or a broken line to a square, the answer. */
function drawPhotograph(pen, colours, right, [x, y], answer, chosen) {
  const paint = (draw, wide, thin) => { for (const [style, width] of [[colours.halo, wide], [right ? colours.good : colours.bad, thin]]) { pen.strokeStyle = style; pen.lineWidth = width; draw(); } };
  if (answer) {
    const [to, down] = answer;
    paint(() => { pen.setLineDash(right ? [] : [5, 4]); pen.beginPath(); pen.moveTo(x, y); pen.lineTo(to, down); pen.stroke(); pen.setLineDash([]); }, chosen ? 6 : 4, chosen ? 3 : 1.6);
    pen.fillStyle = colours.halo;
    pen.fillRect(to - 3, down - 3, 6, 6);
    paint(() => pen.strokeRect(to - 3, down - 3, 6, 6), 4.5, 2);
  }
  if (right) {
    pen.fillStyle = colours.good; pen.strokeStyle = colours.halo; pen.lineWidth = 2;
    pen.beginPath(); pen.arc(x, y, chosen ? 7 : 5, 0, 7); pen.fill(); pen.stroke();
  } else {
    const r = chosen ? 7 : 5;
    paint(() => { for (const way of [1, -1]) { pen.beginPath(); pen.moveTo(x - r, y - r * way); pen.lineTo(x + r, y + r * way); pen.stroke(); } }, 6.5, 3);
  }
}

const metres = (value) => (typeof value === "number" ? `${value < 10 ? value.toFixed(1) : count(Math.round(value))}\u00a0m` : "no answer");

/** A fraction as a percentage. */
const part = (fraction) => (typeof fraction === "number" ? share(Math.floor(fraction * 1e6 + 1e-6)) : DASH);

/** The photographs of a build on its map. */
class Photographs {
  constructor(map, proof) {
    this.map = map;
    this.proof = proof;
    this.answers = list(proof.answers);
    this.shown = true;
    this.chosen = null;
  }

  get visible() {
    return this.shown && this.proof.seq <= this.map.seq;
  }

  on(place) {
    return place ? this.map.screen(this.map.around(place[0] / 360 + 0.5), mercator(place[1])) : null;
  }

  /** Wrong ones last, and the chosen one after all, so that they lie on top. */
  draw(pen) {
    if (!this.visible) return;
    const rank = (each) => (each === this.chosen ? 2 : each.right ? 0 : 1);
    for (const each of [...this.answers].sort((a, b) => rank(a) - rank(b))) drawPhotograph(pen, this.map.colours, each.right, this.on(each.place), this.on(each.answer), each === this.chosen);
  }

  /** The photograph whose true place or answer is nearest to a place of the canvas, if one is near. */
  at(px, py) {
    if (!this.visible) return null;
    let found = null, nearest = NEAR_PX;
    for (const each of this.answers) for (const spot of [this.on(each.place), this.on(each.answer)]) {
      const far = spot ? Math.hypot(spot[0] - px, spot[1] - py) : Infinity;
      if (far < nearest) { nearest = far; found = each; }
    }
    return found;
  }

  about(each) {
    const lines = [`${metres(each.error_m)}${typeof each.error_m === "number" ? " off" : ""}${each.best_m < each.error_m ? `, the best of ten ${metres(each.best_m)}` : ""}`, typeof each.margin === "number" ? `margin ${each.margin.toFixed(4)}` : "no margin"];
    if (each.outside) lines.push("outside of the area, so that no answer is right");
    return [el("b", {}, `${each.right ? "Found" : "Not found"}: ${each.file}`), ...lines.map((line) => el("div", {}, line))];
  }

  /** Bring a photograph and its answer into the middle of the map. */
  choose(each) {
    const { map } = this, spots = [each.place, each.answer].filter(Boolean).map(([lon, lat]) => [map.around(lon / 360 + 0.5), mercator(lat)]);
    const [left, right] = [0, 1].map((way) => Math[way ? "max" : "min"](...spots.map(([x]) => x))), [top, bottom] = [0, 1].map((way) => Math[way ? "max" : "min"](...spots.map(([, y]) => y)));
    map.fit();
    const room = 0.4 * Math.min(map.canvas.clientWidth, map.canvas.clientHeight), most = map.scale * 8;
    map.scale = Math.min(most, room / Math.max(right - left, bottom - top, room / most));
    [map.x, map.y] = [(left + right) / 2, (top + bottom) / 2];
    map.stale = true;
    this.chosen = each;
  }

  /** Rows for the legend, and the box that hides the photographs. */
  legend(replay) {
    const right = this.answers.filter((each) => each.right).length, shown = this.visible ? [right, this.answers.length - right] : [0, 0];
    const row = (name, label, amount, kind) => el("tr", { class: `${amount ? "" : "none"} ${kind}` }, el("td", {}, replay.swatch(name)), el("td", {}, label), el("td", { class: "num", title: "photographs" }, count(amount)));
    return [row("hit", "photograph found", shown[0], "line"), row("miss", "photograph not found", shown[1], "")];
  }
}

/** Go to the map, with a photograph and its answer in the middle. */
function showPhotograph(replay, each) {
  const { map } = replay, { photographs } = map;
  replay.pause();
  replay.show(Math.max(replay.place, replay.rowOf(replay.told.proof.seq)));
  photographs.shown = true;
  photographs.choose(each);
  map.draw();
  replay.drawLegend();
  replay.pointed = () => replay.tip(...photographs.on(each.place), photographs.about(each));
  replay.pointed();
  byId("spoken").textContent = byId("tip").textContent;
  byId("replay").scrollIntoView({ block: "start" });
}

function proofPanel(told, replay) {
  const proof = told.proof;
  if (!proof) return null;
  const answers = list(proof.answers);
  const among = proof.at === 1 ? "by the first candidate" : `by one of the first ${proof.at} candidates`;
  const pairs = [
    ["Found", `${count(proof.right)} of ${count(proof.pictures)}`, `within ${count(proof.within_m)} m, ${among}`],
    ["Asked for", part(proof.min), proof.passed ? "reached" : "not reached"],
    ["Median error", metres(proof.median_m), "of the first candidates"],
    ["Surer half", part(proof.better_half_right), "right, of the half with the larger margins"],
    ["Searched", proof.near_m === null ? "everywhere" : `${count(proof.near_m)} m`, proof.near_m === null ? "on the levels of the cache" : "around a guess"],
  ];
  const within = proof.within ? table(["", ">First", ">Of five", ">Of ten"], Object.entries(proof.within).map(([far, shares]) => [`within ${far} m`, ...["1", "5", "10"].map((first) => part(shares[first]))])) : "";
  const margins = list(proof.margins).map(([least, photographs, right]) => [least.toFixed(4), count(photographs), part(photographs ? right / photographs : null)]);
  const worst = [...answers].sort((a, b) => a.right - b.right || (b.error_m ?? Infinity) - (a.error_m ?? Infinity) || (a.file < b.file ? -1 : 1));
  const onMap = (each) => (replay.map ? el("button", { type: "button", class: "goto", "aria-label": `${each.file} on the map`, on: { click: () => showPhotograph(replay, each) } }, "map") : "");
  const rows = worst.map((each) => [
    [each.right ? tag("● found", "good") : tag("✕ not found", "bad"), " ", el("span", { class: "file" }, each.file), each.outside ? el("span", { class: "soft" }, ", outside of the area") : ""],
    typeof each.error_m === "number" ? metres(each.error_m) : "no answer", typeof each.best_m === "number" ? metres(each.best_m) : DASH, typeof each.margin === "number" ? each.margin.toFixed(4) : DASH, onMap(each),
  ]);
  return panel("proof", "Photographs", proof.passed ? "whose true place is known: the cache finds enough of them" : "whose true place is known: the cache finds too few of them",
    el("dl", { class: "figures" }, pairs.map(([label, value, more]) => el("div", {}, el("dt", {}, label), el("dd", {}, value, el("small", {}, more))))),
    proof.reused ? el("p", { class: "soft" }, "Engine, index and photographs are those of an earlier build, whose answers hold.") : "",
    el("div", { class: "columns" },
      within ? el("div", {}, el("h3", { class: "sub" }, "How near, among how many candidates"), within) : "",
      margins.length ? el("div", {}, el("h3", { class: "sub" }, "What a margin is worth: the first within 50 m"), table([">Margin at least", ">Photographs", ">Right"], margins)) : ""),
    rows.length ? [el("h3", { class: "sub" }, "Each photograph, the worst first"), el("div", { class: rows.length > ANSWERS_OPEN ? "answers" : "" }, table(["Photograph", ">Off", ">Best of ten", ">Margin", ""], rows, rows.length))] : el("p", { class: "soft" }, "The answers cannot be read here: the counts are those of the records."));
}
