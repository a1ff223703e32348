// Formats numbers and colors for the page. A missing number is a dash.
"use strict";

report.format = (() => {
  const DASH = "–";
  const MINUS = "\u2212";
  const known = (value) => typeof value === "number" && Number.isFinite(value);
  const fixed = (value, digits) => value.toFixed(digits).replace("-", MINUS);

  return {
    known,
    // Percent with one digit, without the sign %.
    percent: (value, digits = 1) => (known(value) ? fixed(value, digits) : DASH),
    signed: (value, digits = 1) => (known(value) ? (value > 0 ? "+" : "") + fixed(value, digits) : DASH),
    count: (value) => (known(value) ? value.toLocaleString("en-US") : DASH),
    // Fraction in [0, 1] with two digits: IoU and scores.
    fraction: (value) => (known(value) ? fixed(value, 2) : DASH),
    rgb: (color) =>
      `rgb(${(color ?? [128, 128, 128])
        .slice(0, 3)
        .map((part) => Math.round(Number(part)) || 0)
        .join(", ")})`,
    width: (percent) => ({ width: `${Math.min(100, Math.max(0, percent || 0))}%` }),
    plural: (number, word) => `${number.toLocaleString("en-US")} ${word}${number === 1 ? "" : "s"}`,
  };
})();
