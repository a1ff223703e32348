// Section "Compare": differences of two predictions with confidence intervals, and the images that changed most.
"use strict";

report.Compare = (() => {
  const { reactive, computed } = Vue;
  const { state, pair, predictions, categories, imageHref } = report.store;
  const { Swatch, Picture, SortHead, ChartView, Delta } = report.parts;
  const { compareValues } = report.measures;
  const format = report.format;

  const setup = () => {
    const names = computed(() => ({
      a: predictions.value[pair.value.a].name,
      b: predictions.value[pair.value.b].name,
    }));
    const pairs = computed(() =>
      state.index.compare.map((item, i) => ({
        value: i,
        label: `${predictions.value[item.b].name} minus ${predictions.value[item.a].name}`,
      })),
    );
    const sort = reactive({ key: "delta", descending: false });
    const rows = computed(() => {
      const found = (pair.value.by_class ?? []).map((item) => {
        const category = categories.value[item.category];
        return {
          ...item,
          info: category,
          name: category.name,
          before: category.results?.[pair.value.a]?.pq,
          after: category.results?.[pair.value.b]?.pq,
        };
      });
      return found.sort((x, y) => compareValues(x[sort.key], y[sort.key], sort.descending) || x.category - y.category);
    });
    // Half of the axis' length, in PQ points: a round number that holds every interval.
    const reach = computed(() => {
      const ends = rows.value
        .flatMap((row) => [row.delta, ...(row.ci ?? [])])
        .filter(format.known)
        .map(Math.abs);
      const most = Math.max(1, ...ends);
      return [1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100].find((limit) => limit >= most) ?? 100;
    });
    const at = (value) => 50 + (50 * value) / reach.value;
    const interval = (ci) => ({ left: `${at(ci[0])}%`, width: `${at(ci[1]) - at(ci[0])}%` });
    const dot = (value) => ({ left: `${at(value)}%` });
    const hasInterval = ({ ci }) => Boolean(ci) && ci.every(format.known);
    const range = (ci) => `${format.signed(ci[0])} to ${format.signed(ci[1])}`;
    const verdict = (row) => (!hasInterval(row) ? "" : row.ci[0] > 0 ? "up" : row.ci[1] < 0 ? "down" : "");
    const sentence = computed(() => {
      const kind = verdict(pair.value.delta);
      if (!kind) return "The interval contains 0: these images do not tell which is better.";
      return `${kind === "up" ? names.value.b : names.value.a} is better: the interval does not contain 0.`;
    });
    const changed = computed(() =>
      (pair.value.images ?? []).map(([i, delta]) => ({ i, delta, image: state.index.images[i] })),
    );

    const whole = (p) => predictions.value[p].summary?.All?.pq;

    // Another function for each pair, so that the chart is drawn again.
    const chart = computed(() => {
      const { a, b } = pair.value;
      const points = state.index.images
        .map(({ name, pq }, i) => ({ x: pq?.[a], y: pq?.[b], name, i }))
        .filter(({ x, y }) => format.known(x) && format.known(y));
      const open = (k) => (location.hash = imageHref(points[k].i));
      return (color) => report.charts.scatter(points, [names.value.a, names.value.b], open, color);
    });
    return {
      state,
      pair,
      pairs,
      names,
      sort,
      rows,
      reach,
      interval,
      dot,
      hasInterval,
      range,
      verdict,
      sentence,
      changed,
      whole,
      chart,
      imageHref,
      format,
      thumb: report.data.thumbUrl,
    };
  };

  return {
    components: { Swatch, Picture, SortHead, ChartView, Delta },
    setup,
    template: `
      <section aria-labelledby="compare-title">
        <header class="section-head"><h2 id="compare-title">Compare</h2>
          <label class="select" v-if="pairs.length > 1">Pair <select v-model="state.pair">
            <option v-for="item in pairs" :key="item.value" :value="item.value">{{ item.label }}</option></select></label></header>
        <article class="card verdict">
          <p>{{ pairs[state.pair].label }}</p>
          <p class="big" :class="verdict(pair.delta)"><span class="measure">Δ PQ</span> {{ format.signed(pair.delta.pq) }}
            <span class="measure">{{ format.percent(whole(pair.a)) }} → {{ format.percent(whole(pair.b)) }}</span></p>
          <template v-if="hasInterval(pair.delta)">
            <p>95% interval: {{ range(pair.delta.ci) }} <span class="hint">(bootstrap over {{
              format.plural(pair.delta.samples, 'image') }})</span></p>
            <p class="hint">{{ sentence }}</p>
          </template>
        </article>
        <article class="card" v-if="rows.length">
          <h3>Change by class</h3>
          <p class="hint">Δ PQ with its 95% interval. An interval that does not contain 0 is drawn in color.</p>
          <table class="forest">
            <thead><tr><SortHead :sort="sort" name="name" label="Class"></SortHead>
              <td class="axis"><span>−{{ reach }}</span><span>0</span><span>+{{ reach }}</span></td>
              <SortHead :sort="sort" name="delta" label="Δ PQ" class="number"></SortHead>
              <SortHead :sort="sort" name="before" :label="names.a" class="number side"></SortHead>
              <SortHead :sort="sort" name="after" :label="names.b" class="number side"></SortHead></tr></thead>
            <tbody><tr v-for="row in rows" :key="row.category" :class="verdict(row)">
              <th scope="row" class="class-name"><Swatch :color="row.info.color"></Swatch><span>{{ row.name }}</span></th>
              <td class="wide"><div class="forest-track"><i class="zero"></i>
                <i v-if="hasInterval(row)" class="interval" :style="interval(row.ci)"></i>
                <i v-if="format.known(row.delta)" class="dot" :style="dot(row.delta)"></i></div></td>
              <td class="number strong">{{ format.signed(row.delta) }}<small v-if="hasInterval(row)">{{ range(row.ci) }}</small></td>
              <td class="number side">{{ format.percent(row.before) }}</td><td class="number side">{{ format.percent(row.after) }}</td>
            </tr></tbody>
          </table>
        </article>
        <div class="columns">
          <article class="card">
            <h3>PQ of each image</h3>
            <p class="hint">Above the line, {{ names.b }} is better. A point opens its image.</p>
            <ChartView :make="chart" class="square" :label="'Scatter plot of the PQ of each image: ' + names.a + ' and ' + names.b">
            </ChartView>
          </article>
          <article class="card" v-if="changed.length">
            <h3>Images that changed most</h3>
            <ol class="changed">
              <li v-for="item in changed" :key="item.i"><a :href="imageHref(item.i)">
                <span class="thumb"><Picture :src="thumb(item.image)" alt="" loading="lazy"></Picture></span>
                <span class="file">{{ item.image.name }}</span><Delta :value="item.delta"></Delta></a></li>
            </ol>
          </article>
        </div>
      </section>`,
  };
})();
