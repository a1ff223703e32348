// The decoded content of one image of the report, and what is known of a pixel or a segment.
"use strict";

report.viewerImage = (() => {
  const { readSegments, readErrors, segmentColors } = report.maps;

  // Returns a promise of {id, width, height, photo, truth, predictions, others}. Each side has {map, segments, byNumber, color}; a
  // prediction also {errors, missed: number -> entry, matches: ground-truth number -> segment}. A side that the report does not have
  // is null. Predictions other than `first` are null until they are read, after the image can be seen; `others` is their promise.
  async function read(id, categories, first) {
    const payload = await report.data.loadImage(id);
    const side = async (part) => {
      if (!part?.map) return null;
      const segments = part.segments ?? [];
      const byNumber = new Map(segments.map((segment) => [segment.n, segment]));
      return { map: await readSegments(part.map), segments, byNumber, color: segmentColors(segments, categories) };
    };
    const prediction = async (part) => {
      const read = await side(part);
      if (!read) return null;
      return {
        ...read,
        errors: part.errors ? await readErrors(part.errors) : null,
        missed: new Map((part.missed ?? []).map((entry) => [entry.n, entry])),
        matches: new Map(read.segments.filter((segment) => segment.match).map((segment) => [segment.match, segment])),
      };
    };
    const parts = payload.predictions ?? [];
    const predictions = Vue.shallowReactive(parts.map(() => null));
    const fill = async (i) => (predictions[i] = await prediction(parts[i]));
    const [truth] = await Promise.all([side(payload.ground_truth), parts.length && fill(parts[first] ? first : 0)]);
    const photo = payload.photo ? report.data.photoUrl(id) : "";
    const { width, height } = truth?.map ?? predictions.find(Boolean)?.map ?? (await sizeOfPhoto(photo));
    const readOthers = async () => {
      await new Promise((resolve) => setTimeout(resolve, 50));
      for (const i of parts.keys()) if (!predictions[i]) await fill(i);
    };
    return { id, width, height, photo, truth, predictions, others: readOthers() };
  }

  // An image without a valid annotation has no map.
  async function sizeOfPhoto(address) {
    const image = new Image();
    image.src = address;
    await image.decode().catch(() => {});
    return { width: image.naturalWidth || 4, height: image.naturalHeight || 3 };
  }

  // What the tooltip says of a ground-truth segment: {side, segment, kind, iou}.
  function describeTruth(image, p, n) {
    const segment = image.truth?.byNumber.get(n);
    if (!segment) return null;
    const prediction = image.predictions[p];
    const match = prediction?.matches.get(n);
    const missed = prediction?.missed.get(n);
    const kind = segment.iscrowd ? "crowd" : match ? "matched" : (missed?.kind ?? "");
    return { side: "gt", segment, kind, iou: match?.iou ?? missed?.iou ?? null };
  }

  // What the tooltip says of a predicted segment.
  function describePrediction(image, p, n) {
    const segment = image.predictions[p]?.byNumber.get(n);
    if (!segment) return null;
    return { side: "pred", segment, kind: segment.kind ?? "", iou: segment.iou };
  }

  // What is at a pixel: {truth, prediction, code: error code or null}.
  function describePixel(image, p, x, y) {
    const at = (map) => (map && x < map.width && y < map.height ? y * map.width + x : -1);
    const number = (side) => side?.map.numbers[at(side.map)] ?? 0;
    const errors = image.predictions[p]?.errors;
    return {
      truth: describeTruth(image, p, number(image.truth)),
      prediction: describePrediction(image, p, number(image.predictions[p])),
      code: errors?.codes[at(errors)] ?? null,
    };
  }

  // Segments of the list beside the image: errors first, then by area.
  function listSegments(image, p) {
    const predicted = (image.predictions[p]?.segments ?? []).map((segment) => describePrediction(image, p, segment.n));
    const known = image.truth?.segments ?? [];
    const missing = image.predictions[p]
      ? known.filter((segment) => image.predictions[p].missed.has(segment.n))
      : known;
    const all = [...predicted, ...missing.map((segment) => describeTruth(image, p, segment.n))];
    const isWrong = (entry) => Boolean(entry.kind) && !["matched", "ignored", "crowd"].includes(entry.kind);
    return all
      .map((entry) => ({ ...entry, wrong: isWrong(entry) }))
      .sort((a, b) => b.wrong - a.wrong || b.segment.area - a.segment.area);
  }

  return { read, describeTruth, describePrediction, describePixel, listSegments };
})();
