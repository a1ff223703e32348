// Configurations of Chart.js. color(name): value of a color of report.css.
"use strict";

report.charts = (() => {
  const { known, percent } = report.format;
  const BINS = 20;
  const MANY = 1000; // points that are drawn small
  const BASE = { animation: false, responsive: true, maintainAspectRatio: false };

  // Number of images per range of PQ. series: [{name, values: PQ per image, or null}].
  function histogram(series, color) {
    const step = 100 / BINS;
    return {
      type: "bar",
      data: {
        labels: Array.from({ length: BINS }, (_, i) => `${step * i}–${step * (i + 1)}`),
        datasets: series.map(({ name, values }, k) => ({
          label: name,
          data: countInBins(values),
          backgroundColor: color(`series-${k % 4}`),
          barPercentage: 1,
          categoryPercentage: 0.9,
        })),
      },
      options: {
        ...BASE,
        plugins: { legend: { display: series.length > 1, position: "top", align: "start" } },
        scales: {
          x: {
            title: { display: true, text: "PQ of the image" },
            grid: { display: false },
            ticks: { maxRotation: 0, autoSkipPadding: 12 },
          },
          y: { title: { display: true, text: "Images" }, ticks: { precision: 0 }, border: { display: false } },
        },
      },
    };
  }

  function countInBins(values) {
    const counts = new Array(BINS).fill(0);
    for (const value of values.filter(known)) counts[Math.min(BINS - 1, Math.floor((value * BINS) / 100))]++;
    return counts;
  }

  // One point per image, and the line on which both PQ are equal. points: [{x, y, name}]; names: of the axes; open(k): a click on point k.
  function scatter(points, names, open, color) {
    const images = {
      label: "Images",
      data: points,
      backgroundColor: color("series-0-soft"),
      borderColor: color("series-0"),
      pointRadius: points.length > MANY ? 2 : 4,
      pointHoverRadius: 6,
    };
    const line = {
      label: "Equal",
      data: [
        { x: 0, y: 0 },
        { x: 100, y: 100 },
      ],
      showLine: true,
      pointRadius: 0,
      pointHitRadius: 0,
      borderColor: color("muted"),
      borderWidth: 1,
      borderDash: [4, 4],
    };
    const axis = (name) => ({ min: 0, max: 100, title: { display: true, text: `PQ of ${name}` } });
    const label = ({ raw }) => `${raw.name}: ${percent(raw.x)} → ${percent(raw.y)}`;
    return {
      type: "scatter",
      data: { datasets: [images, line] },
      options: {
        ...BASE,
        onClick: (_, found) => found[0]?.datasetIndex === 0 && open(found[0].index),
        plugins: { legend: { display: false }, tooltip: { callbacks: { label } } },
        scales: { x: axis(names[0]), y: axis(names[1]) },
      },
    };
  }

  return { histogram, scatter };
})();
