// Reads segment maps and paints them. Maps are data: PNGs, so a canvas that shows one can be read, even at file:// addresses.
"use strict";

report.maps = (() => {
  const { kindOfCode } = report.measures;

  // Returns a promise of {width, height, data: RGBA bytes} of a PNG.
  async function decode(url) {
    if (!String(url).startsWith("data:image/png;base64,")) throw new Error("A segment map is not a data: PNG.");
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  // Returns {width, height, numbers: segment number of each pixel, boxes: number -> [x0, y0, x1, y1], ends exclusive}.
  async function readSegments(url) {
    const { width, height, data } = await decode(url);
    const numbers = new Int32Array(width * height);
    const boxes = new Map();
    let last = -1;
    let box = null;
    for (let i = 0, y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const n = data[4 * i] | (data[4 * i + 1] << 8) | (data[4 * i + 2] << 16);
        numbers[i] = n;
        if (n !== last) {
          last = n;
          box = boxes.get(n);
          if (!box) boxes.set(n, (box = [x, y, x + 1, y + 1]));
        }
        if (x < box[0]) box[0] = x;
        if (x >= box[2]) box[2] = x + 1;
        if (y >= box[3]) box[3] = y + 1;
      }
    }
    return { width, height, numbers, boxes };
  }

  // Returns {width, height, codes: error code of each pixel, counts: number of pixels of each code}.
  async function readErrors(url) {
    const { width, height, data } = await decode(url);
    const codes = new Uint8Array(width * height);
    const counts = new Uint32Array(256);
    for (let i = 0; i < codes.length; i++) counts[(codes[i] = data[4 * i])]++;
    return { width, height, codes, counts };
  }

  // Textures with two levels, 1 and 0. The period grows with the map, so that they look the same at the size of a screen.
  const period = (width, height) => Math.max(4, 2 * Math.round(Math.max(width, height) / 160));
  const PATTERNS = {
    solid: () => 1,
    rising: (x, y, p) => (x + y) % p < p / 2,
    falling: (x, y, p) => (((x - y) % p) + p) % p < p / 2,
    level: (x, y, p) => y % p < p / 2,
    upright: (x, y, p) => x % p < p / 2,
    checks: (x, y, p) => x % p < p / 2 === y % p < p / 2,
    void: (x, y, p) => (x + y) % (2 * p) < Math.max(1, p / 4),
  };

  // Paints a segment map: the color of `colorOf(number)`, borders between segments, void as thin stripes.
  function paintSegments(canvas, map, colorOf) {
    const { width, height, numbers } = map;
    const context = resize(canvas, width, height);
    const pixels = new ImageData(width, height);
    const words = new Uint32Array(pixels.data.buffer);
    const colors = new Map();
    for (const n of map.boxes.keys()) colors.set(n, n ? word(colorOf(n), 255) : 0);
    const border = word([255, 255, 255], 255);
    const [light, dark] = [word([225, 225, 225], 150), word([60, 60, 60], 90)];
    const p = period(width, height);
    const wide = Math.max(1, Math.round(Math.max(width, height) / 800)); // of a border, in pixels
    for (let i = 0, y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const n = numbers[i];
        const edge = (x >= wide && numbers[i - wide] !== n) || (y >= wide && numbers[i - wide * width] !== n);
        if (edge) words[i] = border;
        else if (n) words[i] = colors.get(n);
        else words[i] = PATTERNS.void(x, y, p) ? light : dark;
      }
    }
    context.putImageData(pixels, 0, 0);
  }

  // Paints the error codes in `shown`; all other pixels stay transparent.
  function paintErrors(canvas, map, shown) {
    const { width, height, codes } = map;
    const context = resize(canvas, width, height);
    const pixels = new ImageData(width, height);
    const words = new Uint32Array(pixels.data.buffer);
    const p = period(width, height);
    const styles = [];
    for (const [code, kind] of kindOfCode) {
      if (!map.counts[code] || !shown.includes(code)) continue;
      const faint = kind.pattern === "void" ? 40 : 150;
      styles[code] = { pattern: PATTERNS[kind.pattern], high: word(kind.color, 255), low: word(kind.color, faint) };
    }
    for (let i = 0, y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const style = styles[codes[i]];
        if (style) words[i] = style.pattern(x, y, p) ? style.high : style.low;
      }
    }
    context.putImageData(pixels, 0, 0);
  }

  // Paints the outline of segment `n`, white inside black, and nothing if it is 0 or has no pixel.
  function paintOutline(canvas, map, n) {
    const context = resize(canvas, map.width, map.height);
    const box = n && map.boxes.get(n);
    if (!box) return;
    const reach = Math.max(2, Math.round(Math.max(map.width, map.height) / 400));
    const [x0, y0] = [Math.max(0, box[0] - reach), Math.max(0, box[1] - reach)];
    const [x1, y1] = [Math.min(map.width, box[2] + reach), Math.min(map.height, box[3] + reach)];
    const pixels = new ImageData(x1 - x0, y1 - y0);
    const words = new Uint32Array(pixels.data.buffer);
    const [white, black] = [word([255, 255, 255], 255), word([0, 0, 0], 255)];
    const inside = (x, y) =>
      x >= 0 && y >= 0 && x < map.width && y < map.height && map.numbers[y * map.width + x] === n;
    for (let i = 0, y = y0; y < y1; y++) {
      for (let x = x0; x < x1; x++, i++) {
        const here = inside(x, y);
        const near = (d) =>
          inside(x - d, y) !== here ||
          inside(x + d, y) !== here ||
          inside(x, y - d) !== here ||
          inside(x, y + d) !== here;
        if (near(reach)) words[i] = here ? white : black;
      }
    }
    context.putImageData(pixels, x0, y0);
  }

  function resize(canvas, width, height) {
    canvas.width = width; // also clears it
    canvas.height = height;
    return canvas.getContext("2d", { willReadFrequently: true });
  }

  // RGBA as one word in the byte order of the machine.
  function word([r, g, b], alpha) {
    return new Uint32Array(new Uint8ClampedArray([r, g, b, alpha]).buffer)[0];
  }

  // Returns a function from segment number to color: the color of the category, in another shade for each instance of a thing class.
  function segmentColors(segments, categories) {
    const seen = new Map();
    const colors = new Map();
    for (const segment of segments) {
      const category = categories[segment.category];
      const color = category?.color ?? [128, 128, 128];
      const turn = seen.get(segment.category) ?? 0;
      seen.set(segment.category, turn + 1);
      const shade = category?.isthing ? [0, 0.32, -0.24, 0.16, -0.12, 0.44, -0.34][turn % 7] : 0;
      colors.set(
        segment.n,
        color.map((part) => Math.round(shade < 0 ? part * (1 + shade) : part + (255 - part) * shade)),
      );
    }
    return (n) => colors.get(n) ?? [128, 128, 128];
  }

  return { readSegments, readErrors, paintSegments, paintErrors, paintOutline, segmentColors };
})();
