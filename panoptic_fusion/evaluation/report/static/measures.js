// Kinds of error, and what is computed from the numbers of the index: where PQ is lost.
"use strict";

report.measures = (() => {
  const { known } = report.format;

  // `code` is the pixel value in an error map, `key` the kind of a segment, and `segment` the name of the kind for segments where it
  // differs from pixels. The colors are Okabe and Ito's, which people with any color vision can tell apart. `pattern` names the
  // texture in the error layer, so that no kind is told by its color alone.
  const KINDS = [
    {
      code: 1,
      key: "false",
      label: "False positive",
      color: [213, 94, 0],
      pattern: "solid",
      text: "A prediction that matches no segment of the ground truth.",
    },
    {
      code: 2,
      key: "missed",
      label: "Missed",
      color: [0, 114, 178],
      pattern: "rising",
      text: "A ground-truth segment that no prediction matches.",
    },
    {
      code: 3,
      key: "wrong class",
      label: "Wrong class",
      color: [240, 228, 66],
      pattern: "falling",
      text: "The IoU with a segment of another class is above 0.5.",
    },
    {
      code: 4,
      key: "merged",
      label: "Merged",
      color: [204, 121, 167],
      pattern: "level",
      text: "One prediction holds more than half of several segments of its class.",
    },
    {
      code: 5,
      key: "split",
      label: "Split",
      color: [86, 180, 233],
      pattern: "upright",
      text: "Several predictions of the class lie mostly in one segment.",
    },
    {
      code: 7,
      key: "low iou",
      label: "Inexact",
      segment: "Low IoU",
      color: [0, 158, 115],
      pattern: "checks",
      text: "The outline between segments that were found, or an overlap of the right class with an IoU from 0.1 to 0.5.",
    },
    {
      code: 6,
      key: "ignored",
      label: "Not scored",
      color: [128, 128, 128],
      pattern: "void",
      text: "Void or a crowd region in the ground truth.",
    },
  ];
  const kindOf = new Map(KINDS.map((kind) => [kind.key, kind]));
  const kindOfCode = new Map(KINDS.map((kind) => [kind.code, kind]));

  // Splits 100 - PQ of one class exactly: PQ = SQ x RQ, so 100 - PQ = RQ x (1 - SQ) + (1 - RQ). The second part belongs to FP and FN
  // in proportion, because 1 - RQ = (FP / 2 + FN / 2) / (TP + FP / 2 + FN / 2).
  function lostPq(result) {
    if (!known(result?.pq)) return null;
    const rq = result.rq ?? 0;
    const wrong = result.fp + result.fn;
    const share = wrong ? (100 - rq) / wrong : 0;
    return { pq: result.pq, mask: (rq * (100 - (result.sq ?? 0))) / 100, fp: share * result.fp, fn: share * result.fn };
  }

  // Means of `lostPq` over the classes that are scored, or null if none is.
  function meanLostPq(results) {
    const parts = results.map(lostPq).filter(Boolean);
    if (!parts.length) return null;
    const mean = (key) => parts.reduce((sum, part) => sum + part[key], 0) / parts.length;
    return { pq: mean("pq"), mask: mean("mask"), fp: mean("fp"), fn: mean("fn") };
  }

  // Compares two values of one column: missing values come last in either direction; texts by their language's order.
  function compareValues(a, b, descending) {
    const missing = (value) => value === null || value === undefined || Number.isNaN(value);
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const order = typeof a === "string" ? collator.compare(a, b) : a - b;
    return descending ? -order : order;
  }
  const collator = new Intl.Collator("en", { numeric: true });

  return { KINDS, kindOf, kindOfCode, lostPq, meanLostPq, compareValues };
})();
