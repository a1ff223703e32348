// Section "Confusion": which class was predicted for which, in pixels or in segments.
"use strict";

report.Confusion = (() => {
  const { ref, computed } = Vue;
  const { state, categories } = report.store;
  const { Swatch, Choice, PredictionChoice } = report.parts;
  const format = report.format;
  const FEW = 16; // classes that are shown at first
  const LARGEST = 12;
  const EMPTY = { class: "empty" };
  const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 }); // 1234567 as 1.23M

  const setup = () => {
    const unit = ref("pixels");
    const units = [
      { value: "pixels", label: "Pixels" },
      { value: "segments", label: "Segments" },
    ];
    const shown = ref("percent");
    const showns = [
      { value: "percent", label: "% of row" },
      { value: "counts", label: "Counts" },
    ];
    const everything = ref(false);
    const matrix = computed(() => state.index.confusion?.[state.prediction]?.[unit.value] ?? []);
    const last = computed(() => matrix.value.length - 1);
    const sums = computed(() => matrix.value.map((row) => row.reduce((sum, value) => sum + value, 0)));

    const label = (i, side) => {
      if (i !== last.value) return categories.value[i]?.name ?? String(i);
      if (unit.value === "pixels") return "void";
      return side === "truth" ? "no match (FP)" : "no match (FN)";
    };
    const color = (i) => (i === last.value ? [128, 128, 128] : categories.value[i]?.color);

    // Off-diagonal cells, largest first: [truth, predicted, value].
    const confusions = computed(() => {
      const found = [];
      matrix.value.forEach((row, i) =>
        row.forEach((value, j) => {
          if (value && i !== j && !(unit.value === "pixels" && i === last.value)) found.push([i, j, value]);
        }),
      );
      return found.sort((a, b) => b[2] - a[2]);
    });
    const largest = computed(() =>
      confusions.value.filter(([i, j]) => i !== last.value && j !== last.value).slice(0, LARGEST),
    );

    // The classes with the most confusions, in the order of the dataset, and the last row and column.
    const kept = computed(() => {
      const all = matrix.value.map((_, i) => i);
      if (everything.value || all.length <= FEW + 1) return all;
      const weight = new Array(all.length).fill(0);
      for (const [i, j, value] of confusions.value) {
        const part = value / Math.max(1, sums.value[i]);
        weight[i] += part;
        weight[j] += part;
      }
      const chosen = new Set(
        all
          .slice(0, -1)
          .sort((i, j) => weight[j] - weight[i])
          .slice(0, FEW),
      );
      return all.filter((i) => chosen.has(i) || i === last.value);
    });

    const percent = (i, j) => (sums.value[i] ? (100 * matrix.value[i][j]) / sums.value[i] : 0);
    const text = (i, j) => {
      const value = matrix.value[i][j];
      if (shown.value === "counts") return compact.format(value);
      const part = percent(i, j);
      return part < 0.5 ? "<1" : part.toFixed(0);
    };
    // Void is not scored, so its row of pixels has no color.
    const heat = (i, j) => ({
      "--heat":
        i === last.value && (unit.value === "pixels" || j === last.value)
          ? 0
          : Math.sqrt(percent(i, j) / 100).toFixed(3),
    });
    const title = (i, j) => {
      const amount = format.plural(matrix.value[i][j], unit.value.slice(0, -1));
      return `${label(i, "truth")} → ${label(j, "predicted")}: ${amount}, ${format.percent(percent(i, j))}% of the row`;
    };
    const cell = (i, j) =>
      matrix.value[i][j]
        ? { text: text(i, j), title: title(i, j), style: heat(i, j), class: { right: i === j && i !== last.value } }
        : EMPTY;
    const rows = computed(() => kept.value.map((i) => ({ i, cells: kept.value.map((j) => cell(i, j)) })));
    return { unit, units, shown, showns, everything, matrix, kept, rows, label, color, largest, percent, format, FEW };
  };

  return {
    components: { Swatch, Choice, PredictionChoice },
    setup,
    template: `
      <section aria-labelledby="confusion-title">
        <header class="section-head"><h2 id="confusion-title">Confusion of classes</h2><PredictionChoice></PredictionChoice>
          <Choice v-model="unit" :options="units" label="Unit"></Choice>
          <Choice v-model="shown" :options="showns" label="Numbers"></Choice></header>
        <p class="hint" v-if="unit === 'pixels'">Rows are the classes of the ground truth, columns the predicted classes of the same pixels.</p>
        <p class="hint" v-else>A ground-truth segment and a prediction match if their IoU is above 0.5, whatever their classes.</p>
        <div class="confusion-layout">
          <article class="card">
            <div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">
              <table class="confusion">
                <thead><tr><td class="corner"><span>ground truth ↓ predicted →</span></td>
                  <th v-for="j in kept" :key="j" scope="col"><span>{{ label(j, 'predicted') }}</span></th></tr></thead>
                <tbody><tr v-for="row in rows" :key="row.i">
                  <th scope="row"><Swatch :color="color(row.i)"></Swatch>{{ label(row.i, 'truth') }}</th>
                  <td v-for="(cell, k) in row.cells" :key="k" :class="cell.class" :style="cell.style" :title="cell.title">{{
                    cell.text }}</td></tr></tbody>
              </table>
            </div>
            <button v-if="matrix.length > FEW + 1" type="button" class="plain" @click="everything = !everything">{{ everything
              ? 'Show the ' + FEW + ' most confused classes' : 'Show all ' + (matrix.length - 1) + ' classes' }}</button>
          </article>
          <article class="card" v-if="largest.length">
            <h3>Largest confusions</h3>
            <ol class="largest">
              <li v-for="[i, j, value] in largest" :key="i + '-' + j">
                <span class="pair"><Swatch :color="color(i)"></Swatch>{{ label(i, 'truth') }} <span class="arrow-to">→</span>
                  <Swatch :color="color(j)"></Swatch>{{ label(j, 'predicted') }}</span>
                <span class="amount">{{ format.count(value) }} <small>{{ format.percent(percent(i, j)) }}%</small></span>
              </li>
            </ol>
          </article>
        </div>
      </section>`,
  };
})();
