// Section "Summary": the measures of each prediction, and where PQ is lost.
"use strict";

report.Summary = (() => {
  const { computed } = Vue;
  const { state, predictions, categories, scored } = report.store;
  const { LostBar, LostLegend, ChartView } = report.parts;
  const { KINDS, meanLostPq } = report.measures;
  const format = report.format;

  const GROUPS = [
    ["All", () => true],
    ["Things", (category) => category.isthing],
    ["Stuff", (category) => !category.isthing],
  ];
  const MEASURES = [
    ["pq", "PQ"],
    ["sq", "SQ"],
    ["rq", "RQ"],
    ["pq_dagger", "PQ†"],
    ["boundary_pq", "Boundary PQ"],
    ["miou", "mIoU"],
    ["n", "Classes"],
    ["tp", "TP"],
    ["fp", "FP"],
    ["fn", "FN"],
  ];
  const COUNTS = new Set(["n", "tp", "fp", "fn"]);
  const SIZES = [
    ["small", "Small", "below 32² px"],
    ["medium", "Medium", "32² to 96² px"],
    ["large", "Large", "from 96² px"],
  ];
  const SHOWN = 50; // problems

  const setup = () => {
    const index = computed(() => state.index);
    const withSummary = computed(() => predictions.value.map((p, i) => ({ ...p, i })).filter((p) => p.summary));
    const measures = computed(() =>
      MEASURES.filter(([key]) => withSummary.value.some((p) => format.known(p.summary.All?.[key]))),
    );
    const show = (key, value) => (COUNTS.has(key) ? format.count(value) : format.percent(value));

    const lost = computed(() =>
      withSummary.value.map((p) => ({
        name: p.name,
        groups: GROUPS.map(([label, keep]) => ({
          label,
          parts: meanLostPq(categories.value.filter(keep).map((c) => c.results?.[p.i])),
        })).filter((group) => group.parts),
      })),
    );

    const sizes = computed(() =>
      withSummary.value
        .filter((p) => p.by_size)
        .map((p) => ({
          name: p.name,
          rows: SIZES.map(([key, label, range]) => ({ key, label, range, ...p.by_size[key] })),
        })),
    );

    // Numbers of wrong segments by kind: [{name, rows: [{kind, fp, fn, share}]}], the shares relative to the largest number of all.
    const kinds = computed(() => {
      const tables = withSummary.value
        .filter((p) => p.error_segments)
        .map((p) => {
          const { fp = {}, fn = {} } = p.error_segments;
          const rows = KINDS.filter((kind) => kind.key in fp || kind.key in fn).map((kind) => ({
            kind,
            fp: fp[kind.key] ?? 0,
            fn: fn[kind.key] ?? 0,
          }));
          return { name: p.name, rows };
        });
      const most = Math.max(1, ...tables.flatMap((table) => table.rows.map((row) => row.fp + row.fn)));
      return tables.map((table) => ({ ...table, rows: table.rows.map((row) => ({ ...row, scale: 100 / most })) }));
    });

    const problems = computed(() => {
      const several = predictions.value.length > 1;
      const ofPredictions = predictions.value.flatMap((p) =>
        (p.problems ?? []).map((text) => (several ? `${p.name}: ${text}` : text)),
      );
      const ofImages = index.value.images.flatMap((image) =>
        (image.problems ?? []).map((text) => `${image.name}: ${text}`),
      );
      return [...ofPredictions, ...ofImages];
    });

    // A prediction lists only its first problems.
    const numProblems = computed(() =>
      predictions.value.reduce(
        (sum, p) => sum + Math.max(0, (p.num_problems ?? 0) - (p.problems?.length ?? 0)),
        problems.value.length,
      ),
    );

    const facts = computed(() => {
      const { images, categories: all } = index.value;
      const sum = (key) => all.reduce((total, category) => total + (category[key] ?? 0), 0);
      const things = all.filter((category) => category.isthing).length;
      const side = scored.value || !predictions.value.length ? "Ground-truth" : "Predicted";
      return [
        { label: "Images", value: format.count(images.length) },
        { label: "Thing classes", value: format.count(things) },
        { label: "Stuff classes", value: format.count(all.length - things) },
        { label: `${side} segments`, value: format.count(sum("segments")) },
      ].filter((fact) => fact.value !== "0");
    });

    const histogram = (color) => {
      const pq = (p) => index.value.images.map((image) => image.pq?.[p]);
      return report.charts.histogram(
        withSummary.value.map(({ name, i }) => ({ name, values: pq(i) })),
        color,
      );
    };
    const statusOf = (p) =>
      Object.entries(p.status ?? {})
        .filter(([, number]) => number)
        .map(([status, number]) => `${format.count(number)} ${status}`)
        .join(", ");
    const quality = computed(() => withSummary.value.map((p) => ({ ...p, all: p.summary.All })));
    return {
      predictions,
      scored,
      quality,
      measures,
      show,
      statusOf,
      lost,
      sizes,
      kinds,
      problems,
      numProblems,
      facts,
      SHOWN,
      histogram,
      format,
    };
  };

  return {
    components: { LostBar, LostLegend, ChartView, Classes: report.Classes },
    setup,
    template: `
      <section aria-labelledby="summary-title">
        <h2 id="summary-title" class="visually-hidden">Summary</h2>
        <div class="cards" v-if="quality.length">
          <article v-for="p in quality" :key="p.i" class="card headline">
            <h3>{{ p.name }}</h3>
            <p class="big" :data-value="p.all.pq"><span class="measure">PQ</span> {{ format.percent(p.all.pq) }}</p>
            <dl class="pairs">
              <div v-for="group in ['Things', 'Stuff']" :key="group"><dt>{{ group }}</dt>
                <dd>{{ format.percent(p.summary[group]?.pq) }}</dd></div>
              <div><dt>SQ</dt><dd>{{ format.percent(p.all.sq) }}</dd></div>
              <div><dt>RQ</dt><dd>{{ format.percent(p.all.rq) }}</dd></div>
            </dl>
          </article>
        </div>
        <dl class="card facts">
          <div v-for="fact in facts" :key="fact.label"><dt>{{ fact.label }}</dt><dd>{{ fact.value }}</dd></div>
        </dl>

        <Classes v-if="!predictions.length"></Classes>
        <article class="card" v-if="lost.length">
          <h3>Where PQ is lost</h3>
          <p class="hint">Means over the classes. The parts of a bar add up to 100, because PQ = SQ × RQ for each class.</p>
          <div v-for="p in lost" :key="p.name" class="lost-table">
            <h4 v-if="lost.length > 1">{{ p.name }}</h4>
            <div v-for="group in p.groups" :key="group.label" class="lost-row">
              <span class="label">{{ group.label }}</span>
              <LostBar :parts="group.parts"></LostBar>
              <span class="lost-numbers"><b>{{ format.percent(group.parts.pq) }}</b>
                <span class="text-mask">−{{ format.percent(group.parts.mask) }}</span>
                <span class="text-fp">−{{ format.percent(group.parts.fp) }}</span>
                <span class="text-fn">−{{ format.percent(group.parts.fn) }}</span></span>
            </div>
          </div>
          <LostLegend></LostLegend>
        </article>

        <div class="columns">
          <article class="card" v-if="kinds.length">
            <h3>Kinds of error</h3>
            <p class="hint">Numbers of segments: false positives and missed segments by what went wrong.</p>
            <div v-for="p in kinds" :key="p.name">
              <h4 v-if="kinds.length > 1">{{ p.name }}</h4>
              <table class="kinds">
                <thead><tr><th scope="col">Kind</th><td></td>
                  <th v-for="label in ['FP', 'FN']" :key="label" scope="col" class="number">{{ label }}</th></tr></thead>
                <tbody>
                  <tr v-for="row in p.rows" :key="row.kind.key">
                    <th scope="row" :title="row.kind.text">{{ row.kind.segment ?? row.kind.label }}</th>
                    <td class="wide"><div class="bar-track"><span class="pattern-solid" :style="format.width(row.fp * row.scale)"></span><span
                      class="pattern-rising" :style="format.width(row.fn * row.scale)"></span></div></td>
                    <td class="number">{{ format.count(row.fp) }}</td><td class="number">{{ format.count(row.fn) }}</td>
                  </tr>
                </tbody>
              </table>
            </div>
          </article>

          <article class="card" v-if="sizes.length">
            <h3>PQ by segment size</h3>
            <div v-for="p in sizes" :key="p.name">
              <h4 v-if="sizes.length > 1">{{ p.name }}</h4>
              <table>
                <thead><tr><th scope="col">Size</th>
                  <th v-for="label in ['All', 'Things', 'Stuff', 'TP', 'FP', 'FN']" :key="label" scope="col" class="number">{{ label }}</th></tr></thead>
                <tbody>
                  <tr v-for="row in p.rows" :key="row.key">
                    <th scope="row">{{ row.label }} <small>{{ row.range }}</small></th>
                    <td class="number strong">{{ format.percent(row.all?.PQ) }}</td><td class="number">{{ format.percent(row.things?.PQ) }}</td>
                    <td class="number">{{ format.percent(row.stuff?.PQ) }}</td>
                    <td v-for="key in ['TP', 'FP', 'FN']" :key="key" class="number">{{ format.count(row.all?.[key]) }}</td>
                  </tr>
                </tbody>
              </table>
            </div>
          </article>
        </div>

        <article class="card" v-if="scored">
          <h3>Images by PQ</h3>
          <ChartView :make="histogram" label="Histogram of the number of images by their PQ"></ChartView>
        </article>

        <article class="card" v-if="quality.length">
          <h3>All measures</h3>
          <div class="scroll" tabindex="0" role="region" aria-label="All measures">
            <table>
              <thead><tr><th scope="col">Prediction</th><th scope="col">Group</th>
                <th v-for="[key, label] in measures" :key="key" scope="col" class="number">{{ label }}</th></tr></thead>
              <tbody v-for="p in quality" :key="p.i">
                <tr v-for="group in ['All', 'Things', 'Stuff']" :key="group">
                  <th scope="row">{{ p.name }}</th><td>{{ group }}</td>
                  <td v-for="[key] in measures" :key="key" class="number" :data-value="p.summary[group]?.[key]">{{
                    show(key, p.summary[group]?.[key]) }}</td>
                </tr>
              </tbody>
            </table>
          </div>
          <p class="hint status" v-for="p in quality" :key="p.i">{{ p.name }}: {{ statusOf(p) }}.</p>
        </article>

        <article class="card" v-if="problems.length">
          <h3>Problems</h3>
          <ul class="problems"><li v-for="(text, i) in problems.slice(0, SHOWN)" :key="i">{{ text }}</li></ul>
          <p class="hint" v-if="numProblems > SHOWN">and {{ format.count(numProblems - SHOWN) }} more</p>
        </article>
      </section>`,
  };
})();
