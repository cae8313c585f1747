// Pictures of the ground under the cells. They are small copies of tiles that are kept with the build.

const TINT = 0.45;

class Imagery {
  /** `told` is {levels: [{zoom, tiles, side, runs, pictures: [[x, y, across, down, base64]]}], note}. */
  constructor(told) {
    this.note = told.note || "";
    this.shown = true;
    this.levels = list(told.levels);
    for (const level of this.levels) level.images = level.pictures.map(([x, y, across, down, data]) => {
      const image = new Image();
      image.src = `data:image/jpeg;base64,${data}`;
      return { place: [x, y, across, down], image };
    });
  }

  /** Settles when all pictures can be drawn; one that no browser can read is left out. */
  get ready() {
    return Promise.all(this.levels.flatMap((level) => level.images).map(({ image }) => image.decode().catch(() => null)));
  }

  /** The finest level that is no finer than the map's, or else the coarsest: its ground is the same. */
  levelFor(zoom) {
    return this.levels.findLast((level) => level.zoom <= zoom) || this.levels[0];
  }

  /** The pictures of the view, cut out by the tiles that they were made of, and by `mask`. */
  layer(map) {
    const level = this.shown ? this.levelFor(map.zoom) : null;
    if (!level) return null;
    const [made, shape] = [0, 1].map(() => surface(map.canvas.width, map.canvas.height)), pen = made.getContext("2d"), cut = shape.getContext("2d");
    const place = (x, y, across, down) => map.pixels(x, y, across, down, level.zoom);
    for (const { place: [x, y, across, down], image } of level.images) if (image.complete && image.naturalWidth && map.inView(place(x, y, across, down))) pen.drawImage(image, ...place(x, y, across, down));
    for (const [, y, first, last] of level.runs) { const run = place(first, y, last - first + 1, 1); if (map.inView(run)) cut.fillRect(...run); }
    pen.globalCompositeOperation = "destination-in";
    pen.drawImage(shape, 0, 0);
    if (map.mask) pen.drawImage(map.mask, 0, 0);
    return made;
  }

  /** Let the ground be seen through what is painted over it. */
  static thin(paint, layer) {
    paint.globalCompositeOperation = "destination-out";
    paint.globalAlpha = 1 - TINT;
    paint.drawImage(layer, 0, 0);
    paint.globalAlpha = 1;
  }
}
