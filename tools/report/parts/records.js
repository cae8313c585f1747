// The list of records, beside the replay.

const ROW_PX = 30;
const TWO_LINES_PX = 48;
const RECORDS_PX = 340;

/** All records in a list of which only what is in view is there. */
class Records {
  constructor(replay, box, field, note) {
    Object.assign(this, { replay, box, field, note, here: 0 });
    this.inner = el("div");
    box.append(this.inner);
    this.filter();
    box.addEventListener("scroll", () => this.draw());
    field.addEventListener("input", () => { this.filter(); this.draw(); });
    box.addEventListener("click", (event) => { const row = event.target.closest(".row"); if (row) { replay.pause(); replay.show(Number(row.dataset.place)); } });
    box.addEventListener("keydown", (event) => {
      const at = this.places.indexOf(this.here), to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: this.places.length - 1 }[event.key];
      if (to === undefined || !this.places.length) return;
      event.preventDefault();
      replay.pause();
      replay.show(this.places[Math.min(Math.max(0, to), this.places.length - 1)]);
    });
    new ResizeObserver(() => { this.fit(); this.draw(); }).observe(box);
  }

  /** On a narrow screen what a record says stands below its number, time and kind. */
  get rowPx() {
    return matchMedia("(max-width: 640px)").matches ? TWO_LINES_PX : ROW_PX;
  }

  fit() {
    this.inner.style.height = `${this.places.length * this.rowPx}px`;
    this.box.style.height = `${Math.min(RECORDS_PX, Math.max(1, this.places.length) * this.rowPx) + 2}px`;
  }

  filter() {
    const words = this.field.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.places = this.replay.rows.flatMap((row, place) => (words.every((word) => `${row.seq} ${row.tag} ${row.text}`.toLowerCase().includes(word)) ? [place] : []));
    this.note.textContent = words.length ? `${plural(this.places.length, "record")} of ${count(this.replay.rows.length)}` : plural(this.replay.rows.length, "record");
    this.fit();
  }

  mark(place) {
    this.here = place;
    const at = this.places.indexOf(place), rowPx = this.rowPx, top = at * rowPx, { scrollTop, clientHeight } = this.box;
    if (at >= 0 && (top < scrollTop || top + rowPx > scrollTop + clientHeight)) this.box.scrollTop = top - clientHeight / 2 + rowPx;
    this.draw();
  }

  draw() {
    const rowPx = this.rowPx, first = Math.max(0, Math.floor(this.box.scrollTop / rowPx) - 3), last = Math.min(this.places.length, first + Math.ceil((this.box.clientHeight || RECORDS_PX) / rowPx) + 6);
    this.inner.replaceChildren(...this.places.slice(first, last).map((place, offset) => {
      const row = this.replay.rows[place], kind = ENDINGS[row.tag] || ({ error: "bad", warning: "warn" }[this.replay.severity.get(row.seq)] || (row.unknown ? "warn" : ""));
      const made = el("div", { class: `row ${kind}${place === this.here ? " here" : ""}${place > this.here ? " later" : ""}`, role: "option", id: `record-${place}`, "aria-selected": String(place === this.here), "data-place": place, title: row.text },
        el("span", {}, `#${row.seq}`), el("span", { class: "num" }, clock(row.ms)), el("span", { class: "tagname soft" }, row.tag), el("span", { class: "said" }, row.text));
      made.style.top = `${(first + offset) * rowPx}px`;
      return made;
    }));
    this.box.setAttribute("aria-activedescendant", `record-${this.here}`);
  }
}
